"""Holds: all rules that can keep a ready task from starting, in one list, one file each.

The claim, the tick, dispatch and explanations iterate over ``HOLDS`` and name none. A claim evaluates them in this
order: slots are locked before money.
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
    "attempt_limit",
    "budget",
)
"""The modules of this package that define a ``HOLD``."""

HOLDS: tuple[Hold, ...] = tuple(import_module(f"{__name__}.{name}").HOLD for name in _MODULES)
AT_CLAIM = tuple(hold for hold in HOLDS if hold.condition is not None)
"""The holds that a claim evaluates."""
CONDITIONS = tuple(hold.condition for hold in HOLDS if hold.condition is not None)
"""Their SQL conditions."""
WITH_PLACES = tuple(hold for hold in HOLDS if type(hold).find_free_places is not Hold.find_free_places)
"""The holds that may know their free places before a claim."""
TICK_CONDITIONS = tuple(hold.tick_condition for hold in HOLDS if hold.tick_condition is not None)
"""SQL conditions on a supervisor: whether its tick has something to do for a hold."""

SETTINGS = tuple(hold.setting for hold in HOLDS if hold.setting is not None)
"""The keys of the project settings that holds read."""


def check_settings(changes: Mapping[str, Any]) -> None:
    """Validate changed settings of a project that holds read; a value of None removes a setting."""
    for hold in HOLDS:
        if hold.setting is not None and changes.get(hold.setting) is not None:
            hold.check(changes[hold.setting])


def lift_setting_holds(tx: Connection, workspace_id: str, project_id: str, *, actor: str) -> int:
    """Lift the holds that depend on the project's settings, and return the number of queued tasks.

    Call it whenever the settings have changed: the next claim evaluates the holds again.
    """
    reasons = NO_REASON
    for hold in HOLDS:
        reasons |= hold.reason if hold.follows_settings else NO_REASON
    lifted = ready.lift(tx, workspace_id, project_id, reasons, at_once=True)
    return events.append_unblocked(tx, workspace_id, project_id, lifted, actor=actor)
