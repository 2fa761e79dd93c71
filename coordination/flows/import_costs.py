"""Import cost records into the ledger, a batch at a time: what is there already by its id is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from coordination.domain.costs import CostRecord
from coordination.domain.projects import Project
from coordination.services import ledger
from coordination.services import projects as project_service
from coordination.store.queries import costs, projects


def cost_project(tx: Connection, workspace_id: str, *, identity: str, name: str, path: str | None = None) -> Project:
    """The project that records belong to which name none of this store's; made if it is new."""
    return project_service.resolve(tx, workspace_id, identity=identity, name=name, path=path)


def import_costs(tx: Connection, workspace_id: str, records: Sequence[CostRecord], *, project_id: str) -> int:
    """Append *records* to the ledger; how many were new. Those of projects unknown here go to *project_id*."""
    named = {record.project_id for record in records if record.project_id is not None}
    known = {found for found in named if projects.get(tx, workspace_id, found) is not None}
    placed = [record if record.project_id in known else replace(record, project_id=project_id) for record in records]
    return len(ledger.record(tx, workspace_id, _beside_what_they_correct(tx, workspace_id, placed)))


def _beside_what_they_correct(tx: Connection, workspace_id: str, records: Sequence[CostRecord]) -> list[CostRecord]:
    """The records, with corrections where the corrected record stands, which is in the ledger or before them here.

    Without it a correction is only an amount: it settles nothing.
    """
    corrected = {record.corrects for record in records if record.corrects is not None}
    if not corrected:
        return list(records)
    stored = costs.named(tx, workspace_id, sorted(corrected))
    known = {record.id: record for record in records if record.corrects is None} | stored
    placed = []
    for record in records:
        if record.corrects is not None:
            of = known.get(record.corrects)
            if of is None:
                record = replace(record, settles=False)  # noqa: PLW2901 - the same record, in its place
            else:
                record = replace(  # noqa: PLW2901
                    record,
                    project_id=of.project_id,
                    run_id=of.run_id,
                    session_id=of.session_id,
                    task_id=of.task_id,
                    settles=record.settles and of.cost_usd is None,
                )
        placed.append(record)
    return placed
