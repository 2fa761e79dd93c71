"""Finish attempts: write states, results, costs and released tasks in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection

from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT
from coordination.flows.attempts.on_end import LISTENERS
from coordination.services.attempts.end import end_attempts
from coordination.services.attempts.end_effects import EndEffects


def finish(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ends: Sequence[EndedAttempt],
    *,
    actor: str,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
) -> EndEffects:
    """End these attempts of one project, call all listeners, and return the effects.

    The caller then calls ``dispatch.next_work``, and last ``close_ended_runs``. *deferral_limit*: how long a task may
    defer itself before it waits for a person.
    """
    effects = end_attempts(tx, workspace_id, project_id, ends, actor=actor, deferral_limit=deferral_limit)
    for listener in LISTENERS:
        listener(tx, workspace_id, project_id, effects)
    return effects
