"""Test what follows the end of an attempt, and how long it waits."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordination.domain.fleet.leases import MAX_LOSSES
from coordination.domain.tasks.attempts import AttemptEnd, DiscoveredTask, Outcome
from coordination.domain.tasks.retry import (
    AskPerson,
    Backoff,
    Complete,
    GiveUp,
    RetryAfter,
    StayCanceled,
    backoff_delay,
    count_losses,
    decide,
    find_wait,
)
from coordination.domain.tasks.tasks import BlockReason

BACKOFF = Backoff(initial=timedelta(seconds=2), factor=3.0, maximum=timedelta(seconds=60))
NOW = RetryAfter(timedelta(0))


def decision(outcome: Outcome, **fields):
    counters = {"failures": 0, "losses": 0, "deferrals": 0, "max_attempts": 3, "repeatable": True, "backoff": BACKOFF}
    return decide(outcome, **{**counters, **fields})


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_failures_wait_longer_each_time_and_then_end(outcome: Outcome) -> None:
    assert decision(outcome, failures=1) == RetryAfter(timedelta(seconds=2))
    assert decision(outcome, failures=2) == RetryAfter(timedelta(seconds=6))
    assert isinstance(decision(outcome, failures=3), GiveUp)
    assert isinstance(decision(outcome, failures=1, retryable=False), GiveUp)
    assert isinstance(decision(outcome, failures=1, max_attempts=1), GiveUp)


def test_losses_are_counted_apart_and_end_after_three_alone() -> None:
    assert decision(Outcome.LOST, losses=1, failures=2, max_attempts=1) == NOW
    assert decision(Outcome.LOST, losses=MAX_LOSSES) == NOW
    assert isinstance(decision(Outcome.LOST, losses=1 + MAX_LOSSES), GiveUp)
    assert isinstance(decision(Outcome.LOST, losses=1, repeatable=False), AskPerson)


@pytest.mark.parametrize(
    ("losses", "suspect", "alone", "after"),
    [
        *((0, False, False, 0), (0, True, False, 1), (1, True, False, 1), (1, False, False, 1), (1, True, True, 2)),
        *((3, False, True, 4), (3, True, False, 3)),
    ],
)
def test_only_a_loss_alone_adds_to_a_suspicion(losses: int, suspect: bool, alone: bool, after: int) -> None:  # noqa: FBT001
    assert count_losses(losses, suspect=suspect, alone=alone) == after


def test_deferrals_wait_and_are_charged_to_nobody() -> None:
    assert decision(Outcome.DEFERRED, deferrals=2, failures=9) == RetryAfter(timedelta(seconds=6))


def test_the_rest_is_as_its_name_says() -> None:
    assert decision(Outcome.COMPLETED) == Complete()
    assert decision(Outcome.CANCELED) == StayCanceled()
    assert decision(Outcome.HANDED_BACK, failures=99, losses=99) == NOW


@settings(deadline=None)
@given(
    st.integers(0, 10**9),
    st.floats(1, 1000),
    st.timedeltas(timedelta(0), timedelta(days=1)),
    st.timedeltas(timedelta(0), timedelta(days=365)),
)
@example(7, 32.0, timedelta(days=1), timedelta(days=1))
def test_a_wait_never_passes_its_maximum_however_often_it_failed(
    count: int, factor: float, initial: timedelta, maximum: timedelta
) -> None:
    wait = backoff_delay(count, Backoff(initial=initial, factor=factor, maximum=maximum))

    assert timedelta(0) <= wait <= maximum


class TestWaiting:
    """Test what a stopped job waits for, which will be started again."""

    def test_a_question_and_what_comes_first_hold_the_task_together(self) -> None:
        result = AttemptEnd(
            Outcome.DEFERRED, question="Which colour?", discovered=(DiscoveredTask({"key": "p"}, blocks_finder=True),)
        )

        waits = find_wait(result)

        assert waits is not None
        assert waits.reasons == BlockReason.QUESTION | BlockReason.DEPENDENCIES
        assert waits.why == "it asks: 'Which colour?'; it needs p first"

    def test_work_for_later_holds_nobody(self) -> None:
        assert find_wait(AttemptEnd(Outcome.COMPLETED, discovered=(DiscoveredTask({"key": "p"}),))) is None
