"""Test that the protocol of claim, renewal, completion and rescue is safe in every interleaving, with all parts."""

from __future__ import annotations

import pytest

from tests.model.profiles import DEEP
from tests.model.protocol import Found, Rules, search

TWO_AT_ONCE = "2 workers run the job of one task at once"
TWICE = "a task is completed twice"
OLD = "an attempt that did not hold its task any more completed it"

# For each part of the protocol: the violation without it, and a step of the path there.
NEEDED = {
    "claim_is_guarded": (TWO_AT_ONCE, "the claim of worker 2 is committed"),
    "completion_is_fenced": (OLD, "a new attempt of task A"),
    "completion_is_guarded": (TWICE, "but worker 1 is cut off before it hears of it"),
    "worker_ends_its_job_in_time": (TWO_AT_ONCE, "its lease is held to have run out"),
    "lease_by_the_databases_clock": (TWO_AT_ONCE, "its lease is held to have run out"),
    "age_counts_from_sending": (TWO_AT_ONCE, "worker 1 hears that its lease on task A is renewed"),
    "late_claim_is_not_started": (TWO_AT_ONCE, "a tick passes"),
}


def tell(found: Found) -> str:
    """Return the counterexample, and print it to the terminal (pytest -s)."""
    print(f"\n{found.told()}")  # noqa: T201 - for pytest -s
    return found.told()


@pytest.mark.full
def test_three_workers_and_two_tasks_are_safe_and_never_stuck_in_any_interleaving() -> None:
    """Allow one crash and one cut at any moment. Fewer states than the floor mean that the model has lost behaviour."""
    search_result = search(Rules())

    assert search_result.wrong is None, search_result.told()
    assert search_result.stuck == 0
    assert search_result.states > 200_000
    assert search_result.transitions > 1_400_000


@pytest.mark.parametrize(
    "rules",
    [
        Rules(workers=2, tasks=1, ttl=3, fence_after=2, crashes=2, cuts=2),
        Rules(workers=2, tasks=1, ttl=4, fence_after=2),
        Rules(workers=3, tasks=1, ttl=3, fence_after=1),
        pytest.param(
            Rules(workers=2, tasks=2, ttl=3, fence_after=2, crashes=2, cuts=2),
            marks=pytest.mark.skipif(not DEEP, reason="takes minutes: HYPOTHESIS_PROFILE=deep"),
        ),
    ],
    ids=repr,
)
def test_other_times_and_more_accidents_change_nothing(rules: Rules) -> None:
    search_result = search(rules)

    assert search_result.wrong is None, search_result.told()
    assert search_result.stuck == 0
    assert search_result.states > 4_000


@pytest.mark.parametrize("part", NEEDED)
def test_each_part_of_the_protocol_is_needed(part: str) -> None:
    wrong, step = NEEDED[part]

    search_result = search(Rules(**{part: False}))

    story = tell(search_result)
    assert search_result.wrong == wrong
    assert step in story


def test_a_job_must_be_ended_before_the_lease_is_over_not_with_it() -> None:
    search_result = search(Rules(fence_after=2))

    assert tell(search_result).endswith(TWO_AT_ONCE)


def test_without_rescue_a_task_whose_claim_was_never_heard_of_is_stuck() -> None:
    search_result = search(Rules(workers=2, tasks=1, expired_is_rescued=False))

    assert search_result.wrong is None, search_result.told()
    assert search_result.stuck > 0
