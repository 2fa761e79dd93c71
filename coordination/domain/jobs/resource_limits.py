"""Resource limits of a job: memory, CPU time, open files, output. They are enforced by workers/runners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from coordination.base import durations
from coordination.base.sizes import LARGEST
from coordination.base.wording import excerpt

FEWEST_FILES = 16
"""With fewer, not even a shell starts."""

_MOST_FILES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that all processes of a job together may use; None: no limit.

    *memory*: bytes. *cpu*: CPU time. *files*: open files of each process. *output*: bytes that it prints.
    """

    memory: int | None = None
    cpu: timedelta | None = None
    files: int | None = None
    output: int | None = None

    def or_else(self, others: Limits) -> Limits:
        """Return these limits, with the missing ones taken from *others*."""
        if self is NO_LIMITS or others is NO_LIMITS:  # the usual case
            return others if self is NO_LIMITS else self
        return Limits(**{name: theirs if mine is None else mine for name, mine, theirs in self._pairs(others)})

    def within(self, others: Limits) -> Limits:
        """Return the lower one of each limit."""
        lower = {
            name: min((value for value in (mine, theirs) if value is not None), default=None)
            for name, mine, theirs in self._pairs(others)
        }
        return Limits(**lower)

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the task: bytes, seconds, numbers."""
        values = {name: mine for name, mine, _ in self._pairs(self) if mine is not None}
        return {key: value.total_seconds() if isinstance(value, timedelta) else value for key, value in values.items()}

    def problem(self) -> str | None:
        """Return what is wrong with the limits, in one sentence, or None."""
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
            shown = durations.show_duration(cpu) if isinstance(cpu, timedelta) else excerpt(cpu)
            return f"limits.cpu must be from one second to {durations.MAX_DURATION.days:,} days, not {shown}"
        return None

    def _pairs(self, others: Limits) -> list[tuple[str, Any, Any]]:
        return [(spec.name, getattr(self, spec.name), getattr(others, spec.name)) for spec in fields(self)]


NO_LIMITS = Limits()


def limits_of(options: Mapping[str, Any]) -> Limits:
    """Return a task's limits, from its stored options."""
    limits = options.get("limits")
    if not limits:
        return NO_LIMITS
    seconds = limits.get("cpu")
    cpu = None if seconds is None else timedelta(seconds=seconds)
    return Limits(limits.get("memory"), cpu, limits.get("files"), limits.get("output"))
