"""Concurrency limits of a project, of an agent, and of a concurrency key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping

from coordination.base.errors import Refused
from coordination.domain.jobs.checkouts import MERGE_KEY, merge_key, run_branch
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import NextStep, Situation, steps
from coordination.domain.tasks.tasks import TaskState
from coordination.services.holds.base import ClaimRequest, ExplainedTask, FreePlaces, Hold, HoldDecision
from coordination.store.queries.fleet import idle_supervisors
from coordination.store.queries.predicates import LIMITED
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import attempts, runs
from coordination.store.queries.tasks import slots as slot_rows
from coordination.store.queries.tasks.claims import Candidate
from coordination.store.tables.tasks.attempts import slots as slot_table


class SlotsHold(Hold):
    """Leaves tasks queued while a limit is reached. An attempt stores the names of the slots that it uses."""

    name = "slot"
    condition = LIMITED
    tick_condition = idle_supervisors.has(slot_table)  # to recount them

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Reserve a slot of every limit that applies to a task, with all limits of its project locked."""
        slot_names: dict[str, list[str]] = {}
        skipped: list[str] = []
        for project_id in sorted({row.project_id for row in rows}):
            here = [row for row in rows if row.project_id == project_id]
            free = slot_rows.lock(request.tx, request.workspace_id, project_id)
            if missing := _not_stored(here, free):
                if not request.wait:  # storing a limit may wait for another transaction
                    skipped += [row.id for row in here if row.concurrency_key in missing]
                    here = [row for row in here if row.concurrency_key not in missing]
                else:
                    caps = {f"key:{name}": 1 for name in missing}
                    slot_rows.ensure(request.tx, request.workspace_id, project_id, caps)
                    free = slot_rows.lock(request.tx, request.workspace_id, project_id)
            for row in here:
                names = [name for name in _limit_names(row.agent_id, row.concurrency_key) if name in free]
                if all(free[name] > 0 for name in names):
                    for name in names:
                        free[name] -= 1
                    slot_names[row.id] = names
        full = [row.id for row in rows if row.id not in slot_names and row.id not in skipped]
        uses = {task_id: {"slots": names} for task_id, names in slot_names.items() if names}
        changes = {task_id: {"slots": tuple(names)} for task_id, names in slot_names.items() if names}
        return HoldDecision(requeued=full, skipped=skipped, uses=uses, changes=changes)

    def record(self, request: ClaimRequest, claims: Sequence[Claim]) -> None:
        """Raise the counters of the used slots."""
        counts: dict[str, Counter[str]] = {}
        for claim in claims:
            counts.setdefault(claim.project_id, Counter()).update(claim.slots)
        for project_id in sorted(counts):
            slot_rows.take(request.tx, request.workspace_id, project_id, counts[project_id])

    def find_free_places(self, tx: Connection, workspace_id: str, project_id: str) -> FreePlaces | None:
        """Return the free slots, if the project has limits (no lock)."""
        free = slot_rows.count_free(tx, workspace_id, project_id)
        return _Places(free) if free else None

    def repair(self, tx: Connection, workspace_id: str, project_id: str) -> list[str]:
        """Recount the slots of open attempts, and drop the limits of conflict tasks of ended runs.

        In a separate transaction: others wait for slots with tasks locked, so nobody may do the reverse.
        """
        corrected = slot_rows.recount(tx, workspace_id, project_id)
        open_runs = runs.list_unfinished(tx, workspace_id, project_id)
        slot_rows.drop_merge_limits(tx, workspace_id, project_id, keep=open_runs)
        return corrected

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the reached limits of a queued task, and the tasks that use their slots."""
        about, task = target.about, target.task
        if task is None or task.state is not TaskState.QUEUED:
            return
        limits = _limit_names(task.agent, task.concurrency_key)
        for slot in slot_rows.list_slots(about.tx, about.workspace_id, task.project_id):
            if slot["name"] not in limits or slot["used"] < slot["cap"]:
                continue
            stored = slot_rows.stored_name(about.tx, about.workspace_id, slot["name"])
            keys = attempts.keys_using(about.tx, about.workspace_id, task.project_id, stored)
            users = ", ".join(keys) or "no task any more"
            if slot["name"] == f"key:{merge_key(task.run_id)}":
                yield TaskBlocker(
                    "merge", f"waits for its turn to merge to {run_branch(task.run_id)}: now it is {users}"
                )
                continue
            project = projects.get(about.tx, about.workspace_id, task.project_id)
            then = () if project is None else _raise(project.name, slot["name"])
            reached = f"the limit {slot['name']} is reached: {slot['used']}/{slot['cap']} used by {users}"
            yield TaskBlocker(self.name, reached, steps=then)


class _Places:
    """The free slots of a project."""

    def __init__(self, free: Mapping[str, int]) -> None:
        self._free = dict(free)
        self.limit = self._free.get("project")
        self.conditions: Sequence[ColumnElement[bool]] = slot_rows.exclude_full(free)

    def take(self, row: RowMapping) -> bool:
        """Take the slots for a task; return whether all were free."""
        names = [name for name in _limit_names(row["agent_id"], row["concurrency_key"])[1:] if name in self._free]
        if any(self._free[name] <= 0 for name in names):
            return False
        for name in names:
            self._free[name] -= 1
        return True


def _limit_names(agent: str | None, key: str | None) -> list[str]:
    """Return the names of the limits that apply to a task, if they are set."""
    return ["project", *([f"agent:{agent}"] if agent is not None else []), *([f"key:{key}"] if key is not None else [])]


def _not_stored(rows: Sequence[Candidate], free: Mapping[str, int]) -> set[str]:
    """Return the keys of conflict tasks whose limit is not stored. It exists from the first claim to the run's end."""
    keys = {row.concurrency_key for row in rows if row.concurrency_key is not None}
    return {key for key in keys if key.startswith(MERGE_KEY) and f"key:{key}" not in free}


def _raise(project: str, slot: str) -> tuple[NextStep, ...]:
    kind, separator, name = slot.partition(":")
    return steps(Situation.SLOT, project=project, limit=kind, value=f"{name}=N" if separator else "N")


def set_limits(
    tx: Connection, workspace_id: str, project_id: str, caps: Mapping[str, int | None]
) -> list[dict[str, Any]]:
    """Set these limits (``project``, ``agent:NAME``, ``key:NAME``; None removes one), and return all limits.

    Running tasks continue, even above a lowered limit.
    """
    for name, cap in caps.items():
        if cap is not None and cap < 0:
            raise Refused(f"The limit {name} cannot be {cap}", hint="0 stops it, 1 lets one task run at a time")
    for name in sorted(name for name, cap in caps.items() if cap is None):
        slot_rows.drop(tx, workspace_id, project_id, name)
    slot_rows.set_caps(tx, workspace_id, project_id, {name: cap for name, cap in caps.items() if cap is not None})
    return slot_rows.list_slots(tx, workspace_id, project_id)


HOLD = SlotsHold()
