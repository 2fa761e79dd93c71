"""Test the task machine: every pair of state and move, and the invariants of any sequence of moves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordination.domain.tasks.tasks import (
    MOVES,
    OPEN,
    TERMINAL,
    BlockReason,
    DependencyKind,
    TaskMove,
    TaskState,
)

S, M = TaskState, TaskMove

LIFE = {
    (S.BLOCKED, M.UNBLOCK): S.QUEUED,
    (S.BLOCKED, M.CANCEL): S.CANCELED,
    (S.QUEUED, M.CLAIM): S.RUNNING,
    (S.QUEUED, M.HOLD_BACK): S.BLOCKED,
    (S.QUEUED, M.CANCEL): S.CANCELED,
    (S.RUNNING, M.COMPLETE): S.COMPLETED,
    (S.RUNNING, M.RETRY_LATER): S.QUEUED,
    (S.RUNNING, M.WAIT): S.BLOCKED,
    (S.RUNNING, M.FAIL): S.FAILED,
    (S.RUNNING, M.CANCEL): S.CANCELED,
    (S.FAILED, M.REOPEN): S.QUEUED,
    (S.FAILED, M.BLOCK_AGAIN): S.BLOCKED,
    (S.CANCELED, M.REOPEN): S.QUEUED,
    (S.CANCELED, M.BLOCK_AGAIN): S.BLOCKED,
}
"""The table of a task's life, written down a second time."""


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("move", TaskMove)
def test_a_move_exists_exactly_where_the_table_of_a_tasks_life_has_it(state: TaskState, move: TaskMove) -> None:
    sources, target = MOVES[move]

    assert (target if state in sources else None) == LIFE.get((state, move))


def test_every_state_has_a_way_out_except_completed() -> None:
    left = {state for state in TaskState if any(state in sources for sources, _ in MOVES.values())}

    assert set(TaskState) - left == {S.COMPLETED}


def test_a_state_is_open_or_terminal() -> None:
    assert set(TaskState) == OPEN | TERMINAL
    assert not OPEN & TERMINAL


@settings(deadline=None)
@given(st.lists(st.sampled_from(TaskMove), max_size=60))
def test_any_sequence_of_moves_keeps_what_must_hold(moves: list[TaskMove]) -> None:
    state, attempt, ended_with_success = S.QUEUED, 0, False
    for move in moves:
        sources, new = MOVES[move]
        if state not in sources:
            continue
        assert not ended_with_success, "completed is the end"
        if new is S.RUNNING:
            assert (state, move) == (S.QUEUED, M.CLAIM), "only a claim starts anything"
            attempt += 1
        if state in TERMINAL:
            assert move in (M.REOPEN, M.BLOCK_AGAIN), "only a person reopens what has ended"
        if new is S.COMPLETED:
            assert attempt > 0
            ended_with_success = True
        state = new


def test_reasons_are_named_one_by_one() -> None:
    assert (BlockReason.PAUSED | BlockReason.DEPENDENCIES).names() == ["dependencies", "paused"]
    assert len({int(reason) for reason in BlockReason}) == len(list(BlockReason))
    assert all(int(reason).bit_count() == 1 for reason in BlockReason)


def test_only_two_kinds_of_edges_hold_back() -> None:
    assert {kind.value for kind in DependencyKind if kind.holds_back} == {"blocks", "parent-child"}
