"""Test which tasks a thread may run in one batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.agents import prompts
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from tests.support.apps import context_of, worker_settings
from tests.support.jobs import claim_of
from workers.engine.batch import Batch, collect_result
from workers.engine.executor import Executor
from workers.leases.in_flight import InFlightAttempt
from workers.maintenance.supervisor_loop import SupervisorLoop
from workers.runners.registry import Runners

SHARED = {"python": "x:y"}  # one mapping, as claims of one statement share it


@pytest.fixture
def execution(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Executor]:
    with context_of(worker_settings(sqlite_url, redis_url, tmp_path)) as context:
        runners = Runners()
        opened = Executor(context, runners, SupervisorLoop(context))
        yield opened
        opened.close()
        runners.close()


def in_flight_of(key: str, **fields: Any) -> InFlightAttempt:
    return InFlightAttempt(replace(claim_of(SHARED), key=key, **fields), time.monotonic())


@pytest.mark.parametrize(
    ("work", "options", "together"),
    [
        (SHARED, {}, "abcd"),
        ({"python": "x:y", "args": {"a": "{{ task.key }}"}}, {}, "abcd"),
        ({"python": "{{ nothing }}:y"}, {}, "abcd"),
        ({"shell": "true"}, {}, "ab"),
        ({"unheard": "of"}, {}, "ab"),
        (SHARED, {"gates": ["true"]}, "ab"),
        (SHARED, {"checkout": {"kind": "git-worktree"}}, "ab"),
    ],
)
def test_a_batch_ends_before_a_task_that_more_belongs_to_than_its_job(
    execution: Executor, work: Mapping[str, Any], options: Mapping[str, Any], together: str
) -> None:
    fields = {"c": {"work": work, "options": options}}
    batch = [in_flight_of(key, **{"work": SHARED, **fields.get(key, {})}) for key in "abcd"]

    claims, refusal = execution._render(batch)

    assert "".join(claim.key for claim in claims) == together
    assert refusal is None


def test_a_bug_in_rendering_fails_the_attempt_that_meets_it_and_no_other(
    execution: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(claim: Claim) -> Claim:
        if claim.key == "b":
            raise AssertionError("a bug")
        return claim

    monkeypatch.setattr(prompts, "render_job", render)
    a, b = in_flight_of("a", work={"python": "x:y"}), in_flight_of("b", work={"python": "x:z"})

    assert [claim.key for claim in execution._render([a, b])[0]] == ["a"]
    claims, result = execution._render([b])

    assert claims == []
    assert result is not None
    assert (result.outcome, result.error, result.retryable) == (Outcome.FAILED, "AssertionError: a bug", False)


def test_a_batch_ends_before_a_task_that_is_suspected_to_end_its_worker(execution: Executor) -> None:
    claims, _ = execution._render(
        [in_flight_of("a"), in_flight_of("b"), in_flight_of("c", losses=1), in_flight_of("d")]
    )

    assert [claim.key for claim in claims] == ["a", "b"]


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED])
@pytest.mark.parametrize(("age", "counts"), [(29.0, True), (31.0, False)], ids=["in-time", "lapsed"])
def test_what_a_job_returned_counts_for_nothing_when_its_lease_lapsed(
    execution: Executor,
    outcome: Outcome,
    age: float,
    counts: bool,  # noqa: FBT001
) -> None:
    entry = in_flight_of("a")
    entry.renewed_at -= age
    batch = Batch([entry], sent=0.0)
    batch.take(1)

    collect_result(
        execution._context, batch, entry, AttemptEnd(outcome, exit_code=0, error="whatever"), timedelta(seconds=1)
    )

    ((finish, _),) = batch.take_finished()
    assert finish.end.outcome is (outcome if counts else Outcome.LOST)
