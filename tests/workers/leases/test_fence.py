"""Test the fence: a worker that cannot renew a lease ends the job itself, well before another may claim the task."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from coordination.domain.fleet.leases import LeaseTerms
from coordination.store.engine import Store
from tests.support.jobs import claim_of
from workers.leases import in_flight as module
from workers.leases.heartbeat import Heartbeat
from workers.leases.in_flight import InFlightAttempt, InFlightAttempts
from workers.runners.base import Control, StopReason

TERMS = LeaseTerms(ttl=timedelta(seconds=3), heartbeat=timedelta(milliseconds=500))
PATIENCE = timedelta(seconds=20)


class Hanging(Store):
    """A store whose calls block until they are released, as in an outage in which connections stay open."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.entered.set()
        self.let_go.wait()
        raise ConnectionError
        yield  # a generator, as in the real store


class Watched(InFlightAttempts):
    """The attempts of a worker, and the number of the fence's checks: ``looked`` is set after *looks* of them."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks
        self.looked = threading.Event()

    def overdue(self, limit: timedelta) -> list[tuple[str, int]]:
        late = super().overdue(limit)
        self.left -= 1
        if self.left <= 0:
            self.looked.set()
        return late


@contextmanager
def cut_off(attempts: InFlightAttempts) -> Iterator[Hanging]:
    """Run both threads of a worker whose store hangs, until the end of the block."""
    store = Hanging()
    heartbeat = Heartbeat(store, attempts, {"id": "worker"}, terms=TERMS)
    heartbeat.start()
    try:
        yield store
    finally:
        store.let_go.set()
        heartbeat.stop()


def run(attempts: InFlightAttempts, folder: Path, *, sent: float) -> tuple[InFlightAttempt, Control]:
    (entry,) = attempts.add([claim_of({})], sent=sent)
    control = Control(scratch=folder)
    attempts.attach(entry, control)
    return entry, control


def test_a_job_is_ended_before_its_lease_runs_out_while_the_renewing_thread_hangs_in_the_store(tmp_path: Path) -> None:
    attempts = InFlightAttempts()
    sent = time.monotonic()
    _, control = run(attempts, tmp_path, sent=sent)

    with cut_off(attempts) as store:
        assert store.entered.wait(PATIENCE.total_seconds())
        reason = control.wait(PATIENCE)
        after = time.monotonic() - sent
        control.close()

    assert reason is StopReason.LEASE_LOST
    assert TERMS.fence_after.total_seconds() <= after < TERMS.ttl.total_seconds()


@pytest.mark.parametrize(("age", "reason"), [(2.4, None), (2.6, StopReason.LEASE_LOST)], ids=["before", "after"])
def test_a_job_goes_on_until_five_sixths_of_its_lease_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, reason: StopReason | None
) -> None:
    """Check at a fixed age of the lease: the process's clock stands still here, however long the test takes."""
    attempts = Watched(3)
    _, control = run(attempts, tmp_path, sent=1000.0)
    monkeypatch.setattr(module, "monotonic", lambda: 1000.0 + age)

    with cut_off(attempts):
        assert attempts.looked.wait(PATIENCE.total_seconds())
        outcome = control.stop_reason
        control.close()

    assert outcome is reason


def test_a_job_whose_lease_was_renewed_goes_on_while_another_one_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Watched(3)
    renewed, keeps = run(attempts, tmp_path, sent=1000.0)
    _, loses = run(attempts, tmp_path, sent=1000.0)
    attempts.record_renewal((renewed.claim.task_id, renewed.claim.attempt), sent=1001.0, ttl=TERMS.ttl)
    monkeypatch.setattr(module, "monotonic", lambda: 1002.8)

    with cut_off(attempts):
        assert attempts.looked.wait(PATIENCE.total_seconds())
        reasons = [keeps.stop_reason, loses.stop_reason]
        keeps.close()
        loses.close()

    assert reasons == [None, StopReason.LEASE_LOST]
