"""Test jobs that ignore the request to stop: they get the grace period, and no second more."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.processes import until
from workers.runners import program
from workers.runners.base import StopReason

GRACE, LONG = timedelta(seconds=1), timedelta(seconds=90)
SOONER = LONG.total_seconds() / 2
DEAF = "trap '' TERM; echo ready; while true; do sleep 600 & wait; done"


@pytest.mark.parametrize(
    ("reason", "outcome"), [(StopReason.CANCELED, Outcome.CANCELED), (StopReason.LEASE_LOST, Outcome.LOST)]
)
def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(
    bench: Bench, reason: StopReason, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "_KILL_PATIENCE", LONG.total_seconds())
    job = bench.start({"shell": DEAF}, control={"cancel_grace": GRACE, "lost_grace": GRACE})
    assert job.moved.wait(30)
    asked_at = time.monotonic()

    job.stop(reason)
    result = job.end()
    took = time.monotonic() - asked_at

    assert (result.outcome, result.exit_code) == (outcome, -9)
    assert GRACE.total_seconds() <= took < SOONER


def test_a_lost_lease_leaves_a_job_only_the_shorter_grace(bench: Bench) -> None:
    job = bench.start({"shell": DEAF}, control={"cancel_grace": LONG, "lost_grace": timedelta(milliseconds=100)})
    assert job.moved.wait(30)
    job.stop(StopReason.CANCELED)
    asked_at = time.monotonic()

    job.stop(StopReason.LEASE_LOST)
    result = job.end()

    assert result.outcome is Outcome.LOST
    assert time.monotonic() - asked_at < SOONER


def test_a_second_request_to_stop_never_lengthens_the_grace(bench: Bench, tmp_path: Path) -> None:
    hears = DEAF.replace("''", "'touch heard'")
    job = bench.start({"shell": hears}, control={"cancel_grace": GRACE, "lost_grace": LONG}, workdir=str(tmp_path))
    job.stop(StopReason.CANCELED)
    until((tmp_path / "heard").exists, what="the first request")
    asked_at = time.monotonic()

    job.stop(StopReason.LEASE_LOST)
    job.end()

    assert time.monotonic() - asked_at < SOONER


def test_a_job_that_ends_within_its_grace_is_not_killed(bench: Bench) -> None:
    tidies = "trap 'sleep 0.2; echo tidied; exit 3' TERM; echo ready; while true; do sleep 600 & wait; done"
    job = bench.start({"shell": tidies}, control={"cancel_grace": timedelta(seconds=12)})

    job.stop(StopReason.CANCELED)
    result = job.end()

    assert (result.outcome, result.exit_code) == (Outcome.CANCELED, 3)


def test_a_job_is_timed_out_after_its_limit_and_not_before(bench: Bench) -> None:
    began = time.monotonic()

    result = bench.run(
        {"shell": "echo ready; sleep 8; echo end"}, timeout=timedelta(seconds=1), control={"cancel_grace": GRACE}
    )

    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "timed out after 1 s")
    assert time.monotonic() - began >= 1
