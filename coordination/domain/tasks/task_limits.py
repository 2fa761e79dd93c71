"""Limits of one task's attempts. A task that reaches one waits until a person retries it. Pure."""

from __future__ import annotations

from datetime import timedelta

from coordination.base.durations import show_duration
from coordination.base.wording import plural
from coordination.domain.fleet.leases import MAX_DEFERRALS

DEFAULT_MAX_STARTS = 20
"""The default limit of starts of an agent or a chat: each start costs money, whatever its outcome."""

HIGHEST_MAX_STARTS = 100_000

MAX_CONSECUTIVE_LOSSES = 20
"""The limit of lost attempts in a row, for every kind of job."""

DEFERRAL_LIMIT = timedelta(hours=24)
"""How long a job may defer itself in a row, unless the settings say otherwise."""


def max_starts(task: int | None, defaults: int | None, *, max_attempts: int) -> int:
    """Return the start limit of a task: its own, else the plan's default, else enough for all of its attempts."""
    configured = defaults if task is None else task
    return max(DEFAULT_MAX_STARTS, max_attempts) if configured is None else configured


def describe_limit(
    *, starts: int, max_starts: int, deferrals: int, deferred_for: timedelta, consecutive_losses: int
) -> str:
    """Return, as half a sentence, which limit the task has reached."""
    if consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
        return f"its worker was lost {consecutive_losses} times in a row"
    if starts >= max_starts:
        return f"it has started {plural(starts, 'time')}, as often as max_starts allows"
    deferral = f"has deferred itself for {show_duration(deferred_for)}, {deferrals} times in a row"
    return f"it {deferral}" + (f" (at most {MAX_DEFERRALS} times)" if deferrals >= MAX_DEFERRALS else "")
