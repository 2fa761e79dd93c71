"""Test that the table of moves matches the statements: each changes a task from the states it names, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.retry import Complete
from coordination.domain.tasks.tasks import MOVES, TERMINAL, BlockReason, CancelCause, TaskMove, TaskState
from coordination.services.holds import CONDITIONS
from coordination.store import queries
from coordination.store.queries.tasks import attempts, claims, ready, tasks
from coordination.store.queries.tasks.tasks import CounterChanges
from coordination.store.tables.tasks.tasks import tasks as table
from tests.support.world import World

ATTEMPT = 3
Act = Callable[[Any, str, str, int], Any]

NO_COUNTS = CounterChanges()


def complete(tx: Any, workspace_id: str, task_id: str, number: int) -> set[tuple[str, int]]:
    """Return the fences that were valid."""
    one = EndedAttempt(task_id, number, new_id(), "k", AttemptEnd(Outcome.COMPLETED, exit_code=0), Complete())
    return attempts.complete(tx, workspace_id, new_id(), [one], actor=None)[0]


def claim(tx: Any, workspace_id: str, task_id: str) -> bool:
    """Return whether it could be claimed."""
    claimed = claims.claim_free(
        tx, workspace_id, [task_id], held_if=CONDITIONS, worker_id=new_id(), lease=timedelta(minutes=1)
    )
    return bool(claimed)


ACTS: dict[str, tuple[TaskMove, Act]] = {
    "claim": (TaskMove.CLAIM, lambda tx, ws, task, _: claim(tx, ws, task)),
    "hold_back": (TaskMove.HOLD_BACK, lambda tx, ws, task, _: ready.hold_back(tx, ws, [task], BlockReason.PAUSED, {})),
    "complete": (TaskMove.COMPLETE, complete),
    "queue_again": (
        TaskMove.RETRY_LATER,
        lambda tx, ws, task, number: tasks.queue_again(
            tx, ws, task, attempt=number, wait=timedelta(0), counts=NO_COUNTS, error=None
        ),
    ),
    "wait": (
        TaskMove.WAIT,
        lambda tx, ws, task, number: tasks.block(
            tx, ws, task, attempt=number, counts=NO_COUNTS, reason=BlockReason.QUESTION, error=None
        ),
    ),
    "fail": (
        TaskMove.FAIL,
        lambda tx, ws, task, number: tasks.fail(tx, ws, task, attempt=number, counts=NO_COUNTS, error="no"),
    ),
    "cancel": (
        TaskMove.CANCEL,
        lambda tx, ws, task, _: tasks.cancel(tx, ws, [task], cause=CancelCause.PERSON, error="no"),
    ),
    "reopen": (TaskMove.REOPEN, lambda tx, ws, task, _: tasks.reopen(tx, ws, task, pending=0)),
    "reopen_behind": (TaskMove.BLOCK_AGAIN, lambda tx, ws, task, _: tasks.reopen(tx, ws, task, pending=1)),
    "lift_from": (TaskMove.UNBLOCK, lambda tx, ws, task, _: ready.lift_from(tx, ws, [task], BlockReason.DEPENDENCIES)),
    "less_pending": (TaskMove.UNBLOCK, lambda tx, ws, task, _: ready.lower_pending(tx, ws, {task: 1})),
}
FENCED = ("complete", "queue_again", "wait", "fail")


def put(world: World, state: TaskState) -> None:
    """Set the one task into *state* by hand."""
    blocked = state is TaskState.BLOCKED
    world.sql(
        "UPDATE tasks SET state = :state, reasons = :reasons, pending = :pending, attempt = :attempt, "  # noqa: S608
        "finished_at = " + ("updated_at" if state in TERMINAL else "NULL"),
        state=state.value,
        reasons=int(BlockReason.DEPENDENCIES) if blocked else 0,
        pending=int(blocked),
        attempt=ATTEMPT,
    )


def row(world: World) -> dict[str, Any]:
    with world.store.read() as tx:
        return dict(tx.execute(select(table)).mappings().one())


@pytest.mark.parametrize("name", ACTS)
def test_a_statement_moves_a_task_from_the_states_of_its_move_only(world: World, name: str) -> None:
    move, act = ACTS[name]
    world.submit("a")
    sources, target = MOVES[move]

    for state in TaskState:
        put(world, state)
        before = row(world)

        with world.store.write() as tx:
            act(tx, world.workspace, world.ids["a"], ATTEMPT)

        if state in sources:
            assert row(world)["state"] == target, f"{name} from {state}"
            assert row(world)["attempt"] == ATTEMPT + (move is TaskMove.CLAIM)
        else:
            assert row(world) == before, f"{name} from {state} touched the row"


def test_no_statement_spells_out_a_state() -> None:
    folder = Path(queries.__file__).parent
    spelled = re.compile(f"state[^\\n]*'({'|'.join(TaskState)})'")

    file_names = {path.name for path in folder.glob("*.py") if spelled.search(path.read_text())}

    assert file_names <= {"claims.py"}, "states come from TaskState or from the table of moves"


def test_every_move_has_a_statement() -> None:
    assert {move for move, _ in ACTS.values()} == set(TaskMove)


@pytest.mark.parametrize("name", FENCED)
@pytest.mark.parametrize("number", [ATTEMPT - 1, ATTEMPT + 1])
def test_a_worker_without_the_fence_moves_nothing(world: World, name: str, number: int) -> None:
    world.submit("a")
    put(world, TaskState.RUNNING)
    before = row(world)

    with world.store.write() as tx:
        answer = ACTS[name][1](tx, world.workspace, world.ids["a"], number)

    assert not answer
    assert row(world) == before


@pytest.mark.parametrize(
    "broken",
    [
        "state = 'blocked'",
        "reasons = 4",
        "state = 'completed'",
        "finished_at = updated_at",
        "state = 'running', attempt = 0",
        "pending = -1",
        "state = 'asleep'",
        "cancel_cause = 'weather'",
    ],
)
def test_the_database_itself_refuses_what_no_task_can_be(world: World, broken: str) -> None:
    world.submit("a")

    with pytest.raises(IntegrityError), world.store.write() as tx:
        tx.execute(text(f"UPDATE tasks SET {broken}"))  # noqa: S608 - written above


def test_a_reason_taken_away_leaves_the_others(world: World) -> None:
    world.submit("a")
    put(world, TaskState.BLOCKED)
    both = BlockReason.PAUSED | BlockReason.DEPENDENCIES
    world.sql("UPDATE tasks SET reasons = :both", both=int(both))

    with world.store.write() as tx:
        ready.lower_pending(tx, world.workspace, {world.ids["a"]: 1})
    assert (row(world)["state"], row(world)["reasons"], row(world)["pending"]) == ("blocked", BlockReason.PAUSED, 0)

    with world.store.write() as tx:
        (moved,) = ready.lift(tx, world.workspace, world.project_id, BlockReason.PAUSED)
    assert moved["state"] == row(world)["state"] == "queued"
