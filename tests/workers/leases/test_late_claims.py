"""Test that a claim whose answer arrives too late (suspended laptop, stopped machine) ends as lost and never starts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import TaskState
from tests.support.jobs import claim_of
from tests.support.worker_parts import WorkerParts, worker_parts
from workers.leases.in_flight import InFlightAttempt
from workers.runners.base import StopReason


@pytest.fixture
def parts(store_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerParts]:
    monkeypatch.setenv("COORD_REDIS_URL", redis_url)
    with worker_parts(store_url, redis_url, tmp_path) as opened:
        yield opened


def work_off(parts: WorkerParts, marker: Path, *, options: dict[str, object] | None = None) -> None:
    """Let the worker execute one job that creates *marker*."""
    fields = {"run": {"shell": f"touch {marker}"}, **(options or {})}
    parts.world.submit("a", tasks={"a": fields}, origin=parts.world.origin(path=str(marker.parent)))
    parts.executor.run_tasks(parts.world.workspace, [parts.world.ids["a"]])


def claims_were_sent(monkeypatch: pytest.MonkeyPatch, ago: timedelta) -> None:
    """Simulate that the process was stopped for that long between its claim and the answer."""
    monkeypatch.setattr("workers.engine.committer.monotonic", lambda: time.monotonic() - ago.total_seconds())


def test_a_claim_whose_lease_may_have_run_out_is_ended_as_lost_and_its_job_is_not_started(
    parts: WorkerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims_were_sent(monkeypatch, parts.context.terms.fence_after + timedelta(seconds=1))

    work_off(parts, tmp_path / "ran")

    assert not (tmp_path / "ran").exists()
    assert parts.world.outcomes("a") == [Outcome.LOST]
    assert parts.world.task("a").state is TaskState.QUEUED
    assert parts.context.in_flight.count() == 0


def test_a_claim_whose_lease_still_lasts_is_started(
    parts: WorkerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims_were_sent(monkeypatch, timedelta(seconds=5))

    work_off(parts, tmp_path / "ran")

    assert (tmp_path / "ran").exists()
    assert parts.world.outcomes("a") == [Outcome.COMPLETED]
    assert parts.context.in_flight.count() == 0


def test_a_task_that_must_not_be_repeated_waits_for_a_person_after_a_late_claim(
    parts: WorkerParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a person decide: another worker may have claimed the task meanwhile, and may have begun its job."""
    claims_were_sent(monkeypatch, parts.context.terms.fence_after + timedelta(seconds=1))

    work_off(parts, tmp_path / "ran", options={"repeatable": False})

    assert not (tmp_path / "ran").exists()
    assert parts.world.task("a").state is TaskState.BLOCKED


def test_a_batch_ends_before_a_claim_whose_lease_may_have_run_out(parts: WorkerParts) -> None:
    now = time.monotonic()
    late = now - parts.context.terms.fence_after.total_seconds() - 1
    claims = [replace(claim_of({"python": "x:y"}), key=key) for key in "abc"]
    sent = {"a": now, "b": late, "c": now}

    batch, _ = parts.executor._render([InFlightAttempt(one, sent[one.key]) for one in claims])

    assert [one.key for one in batch] == ["a"]


def test_a_job_that_was_told_to_stop_before_it_began_is_not_started(parts: WorkerParts) -> None:
    entry = InFlightAttempt(claim_of({"shell": "true"}), time.monotonic(), stop_reason=StopReason.CANCELED)

    result = parts.executor._end_before_start(entry)

    assert (result.outcome, result.job_started) == (Outcome.CANCELED, False)


class TestAWorkerThatTakesNothingMore:
    def test_it_hands_back_what_it_has_claimed_and_not_begun(self, parts: WorkerParts) -> None:
        parts.context.draining.set()

        result = parts.executor._end_before_start(InFlightAttempt(claim_of({"shell": "true"}), time.monotonic()))

        assert (result.outcome, result.job_started) == (Outcome.HANDED_BACK, False)

    def test_it_lets_the_next_look_enqueue_again_what_a_message_named(self, parts: WorkerParts, tmp_path: Path) -> None:
        parts.world.submit("a", tasks={"a": {"run": {"shell": f"touch {tmp_path / 'ran'}"}}})
        assert [ready.key for ready in parts.world.tick().ring] == ["a"]  # type: ignore[union-attr]
        parts.context.draining.set()

        parts.executor.run_tasks(parts.world.workspace, [parts.world.ids["a"]])

        assert not (tmp_path / "ran").exists()
        assert parts.world.task("a").state is TaskState.QUEUED
        assert [ready.key for ready in parts.world.tick().ring] == ["a"]  # type: ignore[union-attr]
