"""Test combined limits: of a plan, of its defaults, of the worker."""

from __future__ import annotations

from datetime import timedelta

from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits, limits_of

SOME = Limits(memory=100, cpu=timedelta(seconds=90))


def test_what_a_task_leaves_open_is_as_the_defaults_say() -> None:
    assert SOME.or_else(Limits(memory=5, files=64)) == Limits(100, timedelta(seconds=90), 64, None)
    assert NO_LIMITS.or_else(SOME) == SOME


def test_the_smaller_one_of_each_holds() -> None:
    assert SOME.within(Limits(memory=5, cpu=timedelta(hours=1), output=7)) == Limits(5, timedelta(seconds=90), None, 7)
    assert SOME.within(NO_LIMITS) == NO_LIMITS.within(SOME) == SOME


def test_they_are_stored_and_read_back() -> None:
    whole = Limits(1, timedelta(seconds=1.5), 16, 4)

    assert whole.to_json() == {"memory": 1, "cpu": 1.5, "files": 16, "output": 4}
    assert limits_of({"limits": whole.to_json()}) == whole
    assert limits_of({}) == NO_LIMITS


def test_a_duration_that_is_no_limit_is_said_as_it_is_written() -> None:
    assert Limits(cpu=timedelta(0)).problem() == "limits.cpu must be from one second to 3,650 days, not 0s"
