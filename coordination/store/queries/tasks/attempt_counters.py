"""SQL expressions for the counters of a task after an attempt, and for its limits.

The statements that write the counters test the limits, so that every way of ending an attempt does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, or_

from coordination.domain.fleet.leases import MAX_DEFERRALS
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT, MAX_CONSECUTIVE_LOSSES
from coordination.store.queries.money.starts import PAID
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_after, db_now

t = tasks.c

RESET_COUNTERS: dict[str, Any] = {
    "failures": 0,
    "losses": 0,
    "deferrals": 0,
    "deferred_since": None,
    "starts": 0,
    "consecutive_losses": 0,
}
"""The values that reset all counters of a task."""


@dataclass(frozen=True, slots=True)
class CounterChanges:
    """The changes by an ended attempt. ``started``: its job was started. ``lost``: its worker was lost.

    ``losses`` is set, not added (see ``domain.tasks.retry.count_losses``); None leaves it. ``own_end``: the job
    ended by itself without a deferral, which resets the deferrals. ``known_wait``: it waits for the known end of a
    provider limit, so that ``deferred_since`` is reset.
    """

    failures: int = 0
    losses: int | None = None
    deferrals: int = 0
    started: bool = False
    lost: bool = False
    own_end: bool = False
    known_wait: bool = False


def counter_values(counts: CounterChanges) -> dict[str, Any]:
    """Return the new values of the counters."""
    deferred: dict[str, Any] = {}
    if counts.own_end:
        deferred = {"deferrals": 0, "deferred_since": None}
    elif counts.deferrals:
        since = None if counts.known_wait else func.coalesce(t.deferred_since, db_now())
        deferred = {"deferrals": t.deferrals + counts.deferrals, "deferred_since": since}
    return {
        "failures": t.failures + counts.failures,
        "losses": t.losses if counts.losses is None else counts.losses,
        "consecutive_losses": t.consecutive_losses + 1 if counts.lost else 0,
        "starts": _starts(counts),
        **deferred,
    }


def is_limit_reached(counts: CounterChanges, deferral_limit: timedelta = DEFERRAL_LIMIT) -> ColumnElement[bool]:
    """Return the condition that the task reaches a limit with these changes."""
    limits: list[ColumnElement[bool]] = [and_(PAID, _starts(counts) >= t.max_starts)]
    if counts.lost:
        limits.append(t.consecutive_losses + 1 >= MAX_CONSECUTIVE_LOSSES)
    if counts.deferrals:
        limits.append(t.deferrals + counts.deferrals >= MAX_DEFERRALS)
        if not counts.known_wait:
            limits.append(t.deferred_since <= db_after(-deferral_limit.total_seconds()))
    return func.coalesce(or_(*limits), false())


def _starts(counts: CounterChanges) -> Any:
    return case((PAID, t.starts + 1), else_=t.starts) if counts.started else t.starts
