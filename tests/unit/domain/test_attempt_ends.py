"""Test the possible ends of an attempt: only a deferred one waits for something."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, DiscoveredTask, Outcome

FIRST = DiscoveredTask({"key": "p"}, blocks_finder=True)
LATER = DiscoveredTask({"key": "q"})
WAITS: list[dict[str, Any]] = [
    {"question": "Which?"},
    {"budget_shortage": "no money is left"},
    {"discovered": (FIRST,)},
]
OTHERS = [outcome for outcome in Outcome if outcome is not Outcome.DEFERRED]


@pytest.mark.parametrize("waits", WAITS)
@pytest.mark.parametrize("outcome", OTHERS)
def test_an_end_that_is_not_deferred_cannot_wait_for_anything(outcome: Outcome, waits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="only a deferred one"):
        AttemptEnd(outcome, **waits)

    assert AttemptEnd(Outcome.DEFERRED, **waits).waits


def test_a_completed_end_can_bring_tasks_that_come_later() -> None:
    assert not AttemptEnd(Outcome.COMPLETED, discovered=(LATER,)).waits


@pytest.mark.parametrize("waits", WAITS)
def test_an_end_that_waits_and_then_fails_still_waits(waits: dict[str, Any]) -> None:
    end = AttemptEnd(Outcome.DEFERRED, **waits).ending_as(Outcome.FAILED, error="the worktree is gone")

    assert (end.outcome, end.waits, end.error) == (Outcome.DEFERRED, True, "the worktree is gone")


def test_an_end_that_waits_and_then_is_canceled_asks_nothing_and_keeps_what_comes_later() -> None:
    end = AttemptEnd(Outcome.DEFERRED, question="Which?", discovered=(FIRST, LATER)).ending_as(Outcome.CANCELED)

    assert (end.outcome, end.question, end.discovered) == (Outcome.CANCELED, None, (LATER,))
