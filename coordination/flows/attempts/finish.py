"""Finish attempts: how they ended becomes state, evidence, costs and released work, in one transaction."""

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
    """End these attempts, all of one project, and let all listeners hear of it; return what that did.

    The caller then asks ``dispatch.next_work`` what follows, and closes the ended runs (``close_ended_runs``) last.
    *deferral_limit*: how long a task may ask for later before a person must let it go on.
    """
    effects = end_attempts(tx, workspace_id, project_id, ends, actor=actor, deferral_limit=deferral_limit)
    for listener in LISTENERS:
        listener(tx, workspace_id, project_id, effects)
    return effects
