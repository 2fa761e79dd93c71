"""How often and how long a task is tried before a person must say that it goes on. Pure."""

from __future__ import annotations

from datetime import timedelta

from coordination.base.durations import show_duration
from coordination.base.wording import plural
from coordination.domain.fleet.leases import MAX_DEFERRALS

DEFAULT_MAX_STARTS = 20
"""Starts of an agent or a chat: each costs money, whatever it ends as."""

MOST_STARTS = 100_000

MAX_CONSECUTIVE_LOSSES = 20
"""Attempts that were lost with their workers, with no other end between them, whatever the job is."""

DEFERRAL_LIMIT = timedelta(hours=24)
"""How long a job may ask for later without any other end, unless the settings say otherwise."""


def max_starts(task: int | None, defaults: int | None, *, max_attempts: int) -> int:
    """The limit of one task: as it or the plan's defaults say, else enough for all of its attempts."""
    stated = defaults if task is None else task
    return max(DEFAULT_MAX_STARTS, max_attempts) if stated is None else stated


def limit_reached(*, starts: int, most: int, deferrals: int, deferred_for: timedelta, consecutive_losses: int) -> str:
    """In words, why a task that has reached a limit is not tried again."""
    if consecutive_losses >= MAX_CONSECUTIVE_LOSSES:
        return f"its worker was lost {consecutive_losses} times in a row"
    if starts >= most:
        return f"it has started {plural(starts, 'time')}, as often as max_starts allows"
    after = f"has asked to be tried later for {show_duration(deferred_for)}, {deferrals} times in a row"
    return f"it {after}" + (f" (at most {MAX_DEFERRALS} times)" if deferrals >= MAX_DEFERRALS else "")
