"""What a job may use: memory, processor time, open files, output. Pure: workers/runners see to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from coordination.base import durations
from coordination.base.sizes import LARGEST
from coordination.base.wording import excerpt

FEWEST_FILES = 16
"""Below that not even a shell starts."""

_MOST_FILES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a job may use, all its processes together; None: any amount.

    *memory*: bytes. *cpu*: processor time. *files*: open files of each process. *output*: bytes that it prints.
    """

    memory: int | None = None
    cpu: timedelta | None = None
    files: int | None = None
    output: int | None = None

    def or_else(self, others: Limits) -> Limits:
        """These, and what *others* say where these say nothing."""
        if self is NO_LIMITS or others is NO_LIMITS:  # as nearly always
            return others if self is NO_LIMITS else self
        return Limits(**{name: theirs if mine is None else mine for name, mine, theirs in self._beside(others)})

    def within(self, others: Limits) -> Limits:
        """The smaller one of each."""
        smaller = {
            name: min((one for one in (mine, theirs) if one is not None), default=None)
            for name, mine, theirs in self._beside(others)
        }
        return Limits(**smaller)

    def to_json(self) -> dict[str, Any]:
        """As stored with the task: bytes, seconds, numbers."""
        values = {name: mine for name, mine, _ in self._beside(self) if mine is not None}
        return {name: one.total_seconds() if isinstance(one, timedelta) else one for name, one in values.items()}

    def problem(self) -> str | None:
        """What is wrong with them, in one sentence; None when nothing is."""
        if self is NO_LIMITS:
            return None
        for name, largest, lowest in (
            ("memory", LARGEST, 1),
            ("output", LARGEST, 1),
            ("files", _MOST_FILES, FEWEST_FILES),
        ):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and lowest <= value <= largest):
                return f"limits.{name} must be a whole number from {lowest} to {largest:,}, not {excerpt(value)}"
        cpu = self.cpu
        if cpu is not None and not (
            isinstance(cpu, timedelta) and timedelta(seconds=1) <= cpu <= durations.MAX_DURATION
        ):
            said = durations.show_duration(cpu) if isinstance(cpu, timedelta) else excerpt(cpu)
            return f"limits.cpu must be from one second to {durations.MAX_DURATION.days:,} days, not {said}"
        return None

    def _beside(self, others: Limits) -> list[tuple[str, Any, Any]]:
        return [(spec.name, getattr(self, spec.name), getattr(others, spec.name)) for spec in fields(self)]


NO_LIMITS = Limits()


def limits_of(options: Mapping[str, Any]) -> Limits:
    """What a task may use, by its stored options."""
    found = options.get("limits")
    if not found:
        return NO_LIMITS
    seconds = found.get("cpu")
    cpu = None if seconds is None else timedelta(seconds=seconds)
    return Limits(found.get("memory"), cpu, found.get("files"), found.get("output"))
