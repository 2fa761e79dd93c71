"""Add tasks that a running attempt found to its run, while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.tasks.attempts import Discovered
from coordination.domain.tasks.tasks import TaskState
from coordination.services.agents import agents
from coordination.services.plans.add_discovered_tasks import AddedTasks, add_tasks
from coordination.store.queries.tasks import tasks


def add_found(
    tx: Connection, workspace_id: str, task_id: str, attempt: int, discovered: Sequence[Discovered]
) -> AddedTasks:
    """Add what this *attempt* found. Refused when it does not hold its task any more, or for what it found."""
    tasks.lock(tx, workspace_id, [task_id])
    if tasks.state_of(tx, workspace_id, [task_id]).get(task_id) != (TaskState.RUNNING, attempt):
        raise Refused("This attempt does not hold its task any more, and what it finds is not added")
    return add_tasks(tx, workspace_id, task_id, discovered, agents.AgentLookup(tx, workspace_id))
