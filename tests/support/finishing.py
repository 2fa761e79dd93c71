"""Ends attempts in one transaction as a worker does: finish, choose what follows, close runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.flows.attempts.finish import DispatchTerms, NextWork, finish, next_work
from coordination.services.attempts.end import EndEffects, close_ended_runs


@dataclass(frozen=True, slots=True)
class Finished:
    """The results of the ends, and the tasks that follow."""

    effects: EndEffects
    work: NextWork


def finish_all(
    tx: Connection, workspace_id: str, ends: Sequence[EndedAttempt], *, worker_id: str, terms: DispatchTerms
) -> Finished:
    """End these attempts of one project."""
    project_id = ends[0].claim.project_id
    effects = finish(tx, workspace_id, project_id, ends, actor=f"worker:{worker_id}")
    work = next_work(tx, workspace_id, project_id, effects, terms)
    close_ended_runs(tx, workspace_id, effects, continuing=work.runs)
    return Finished(effects, work)
