"""Holds: everything that can keep a ready task from starting, in one list, one file each.

The claim, the tick, whoever enqueues and whoever explains walk ``HOLDS`` and know none by name. The order is that in
which they are asked at a claim: slots are locked before money.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sqlalchemy import Connection

from coordination.domain.tasks.tasks import NO_REASON
from coordination.services.holds.base import Hold
from coordination.store.queries.tasks import events, ready

_MODULES = (
    "pause",
    "quiet_hours",
    "question",
    "outcome_unknown",
    "not_before",
    "model_policy",
    "slots",
    "task_limit",
    "budget",
)
"""The files beside this one, each with its ``HOLD``."""

HOLDS: tuple[Hold, ...] = tuple(import_module(f"{__name__}.{name}").HOLD for name in _MODULES)
AT_CLAIM = tuple(hold for hold in HOLDS if hold.condition is not None)
"""Those that are asked when a task is claimed."""
CONDITIONS = tuple(hold.condition for hold in HOLDS if hold.condition is not None)
"""Their conditions, in SQL."""
DUTIES = tuple(hold.duty for hold in HOLDS if hold.duty is not None)
"""When a tick has something to do for one of them, in SQL on a supervisor."""


def check_settings(changes: Mapping[str, Any]) -> None:
    """Refuse settings of a project that a hold could not use; None takes one away."""
    for hold in HOLDS:
        if hold.setting is not None and changes.get(hold.setting) is not None:
            hold.check(changes[hold.setting])


def ask_again(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """Let tasks go on that something held which the project says; they are asked again at their next claim; how many.

    To be called whenever what a project says has changed.
    """
    reasons = NO_REASON
    for hold in HOLDS:
        reasons |= hold.reason if hold.follows_settings else NO_REASON
    lifted = ready.lift(tx, workspace_id, project_id, reasons, at_once=True)
    return events.append_unblocked(tx, workspace_id, project_id, lifted, actor=actor)
