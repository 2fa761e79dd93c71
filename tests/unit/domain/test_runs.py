"""Test that a run's state follows from its tasks."""

from __future__ import annotations

import pytest

from coordination.domain.tasks.tasks import RunState, TaskState, derive_state

Q, R, B = TaskState.QUEUED, TaskState.RUNNING, TaskState.BLOCKED
C, F, X = TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED


@pytest.mark.parametrize(
    ("counts", "waiting", "state"),
    [
        ({Q: 1, F: 3}, 0, RunState.OPEN),
        ({R: 1, B: 2}, 2, RunState.OPEN),
        ({B: 2, F: 1}, 1, RunState.OPEN),
        ({B: 2, F: 1}, 2, RunState.STUCK),
        ({C: 5}, 0, RunState.COMPLETED),
        ({C: 5, X: 1}, 0, RunState.CANCELED),
        ({C: 5, X: 1, F: 1}, 0, RunState.FAILED),
    ],
)
def test_the_state_is_the_worst_of_what_can_still_matter(counts, waiting: int, state: RunState) -> None:
    assert derive_state(counts, waiting_on_failure=waiting) is state


def test_only_three_states_are_an_end() -> None:
    assert {state for state in RunState if state.ended} == {RunState.COMPLETED, RunState.FAILED, RunState.CANCELED}
