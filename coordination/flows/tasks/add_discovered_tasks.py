"""Add tasks that a running attempt has discovered to its run."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.domain.tasks.tasks import TaskState
from coordination.services.agents import agents
from coordination.services.plans.add_discovered_tasks import AddedTasks, add_tasks
from coordination.store.queries.tasks import tasks


def add_tasks_of_attempt(
    tx: Connection, workspace_id: str, task_id: str, attempt: int, discovered: Sequence[DiscoveredTask]
) -> AddedTasks:
    """Add the discovered tasks. Raises Refused for invalid ones, and when *attempt* has lost its task."""
    tasks.lock(tx, workspace_id, [task_id])
    if tasks.get_states(tx, workspace_id, [task_id]).get(task_id) != (TaskState.RUNNING, attempt):
        raise Refused("The attempt no longer runs this task, so its discovered tasks are not added")
    return add_tasks(tx, workspace_id, task_id, discovered, agents.AgentLookup(tx, workspace_id))
