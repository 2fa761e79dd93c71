"""Test the thread of a suspected task while it waits for a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.apps import context_of, worker_settings
from tests.support.jobs import claim_of
from workers.context import Context
from workers.engine import isolation as module
from workers.engine.isolation import Isolation
from workers.runners.base import StopReason


@pytest.fixture
def context(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[Context]:
    with context_of(worker_settings(sqlite_url, redis_url, tmp_path)) as context:
        yield context


@pytest.mark.parametrize(
    ("reason", "outcome"), [(StopReason.CANCELED, Outcome.CANCELED), (StopReason.SHUTDOWN, Outcome.HANDED_BACK)]
)
def test_one_that_is_stopped_while_it_waits_for_a_place_starts_no_process(
    context: Context, reason: StopReason, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(module, "_Helper", lambda launcher: started.append(launcher) or pytest.fail("it started one"))
    (entries,) = context.in_flight.add([claim_of({"shell": "true"}, losses=1)], sent=0.0)
    context.in_flight.stop((entries.claim.task_id, entries.claim.attempt), reason)
    isolation = Isolation(context)

    result = isolation.run(entries)

    isolation.close()
    assert result is not None
    assert (result.outcome, result.job_started, started) == (outcome, False, [])
