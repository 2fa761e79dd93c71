"""Test the in-flight attempts of a worker process: which leases to renew, which ran out, and which jobs must stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.events import EventType
from tests.support.jobs import claim_of
from workers.leases import in_flight as module
from workers.leases.in_flight import InFlightAttempt, InFlightAttempts
from workers.runners.base import Control, ProcessRecord, StopReason

FENCE = timedelta(seconds=25)
TTL = timedelta(seconds=30)
PROCESS = ProcessRecord(pid=7, pgid=7, start_time=70, marker="A=b")


class Clock:
    """The clock of the process, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def attempts() -> InFlightAttempts:
    return InFlightAttempts()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control(scratch=tmp_path) as opened:
        yield opened


@pytest.fixture
def wake() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def add(attempts: InFlightAttempts, key: str = "a", *, sent: float = 1000.0, **changes: object) -> InFlightAttempt:
    (entry,) = attempts.add([replace(claim_of({}), key=key, **changes)], sent=sent)  # type: ignore[arg-type]
    return entry


def key_of(entry: InFlightAttempt) -> tuple[str, int]:
    return entry.claim.task_id, entry.claim.attempt


def is_readable(descriptor: int) -> bool:
    try:
        return os.eventfd_read(descriptor) > 0
    except BlockingIOError:
        return False


class TestLeases:
    def test_a_lease_is_overdue_when_the_last_renewal_was_sent_longer_ago_than_the_limit(
        self, attempts: InFlightAttempts, clock: Clock
    ) -> None:
        entry = add(attempts, sent=clock.now)

        clock.now += 24.9
        assert attempts.overdue(FENCE) == []
        clock.now += 0.2
        assert attempts.overdue(FENCE) == [key_of(entry)]

    def test_a_renewal_counts_from_when_it_was_sent(self, attempts: InFlightAttempts, clock: Clock) -> None:
        entry = add(attempts, sent=clock.now)
        clock.now += 30

        attempts.record_renewal(key_of(entry), sent=1010.0, ttl=TTL)

        assert entry.renewed_at == 1010.0
        assert attempts.overdue(timedelta(seconds=19)) == [key_of(entry)]
        assert attempts.overdue(timedelta(seconds=21)) == []

    def test_a_renewal_that_is_heard_of_late_takes_nothing_back(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts, sent=1000.0)
        attempts.record_renewal(key_of(entry), sent=1020.0, ttl=TTL)

        attempts.record_renewal(key_of(entry), sent=1010.0, ttl=TTL)

        assert entry.renewed_at == 1020.0

    def test_one_that_was_not_renewed_in_time_has_lapsed_for_good(
        self, attempts: InFlightAttempts, clock: Clock
    ) -> None:
        entry = add(attempts, sent=clock.now)
        assert not attempts.has_lapsed(entry, TTL)

        clock.now += 31
        assert attempts.has_lapsed(entry, TTL), "before the next renewal, too"

        assert not attempts.record_renewal(key_of(entry), sent=clock.now, ttl=TTL)
        assert not attempts.record_renewal(key_of(entry), sent=clock.now + 1, ttl=TTL)
        assert attempts.has_lapsed(entry, TTL)

    def test_what_has_ended_is_neither_renewed_nor_counted(self, attempts: InFlightAttempts) -> None:
        first, second = add(attempts), add(attempts)

        attempts.drop(first.claim)

        assert (attempts.keys(), attempts.count()) == ([key_of(second)], 1)
        assert not attempts.stop(key_of(first), StopReason.CANCELED)


class TestOrders:
    def test_an_order_reaches_the_job_that_runs(self, attempts: InFlightAttempts, control: Control) -> None:
        entry = add(attempts)
        attempts.attach(entry, control)

        assert attempts.stop(key_of(entry), StopReason.CANCELED)

        assert control.stop_reason is StopReason.CANCELED

    def test_an_order_that_came_before_the_job_began_is_passed_on(
        self, attempts: InFlightAttempts, control: Control
    ) -> None:
        entry = add(attempts)
        attempts.stop(key_of(entry), StopReason.LEASE_LOST)

        attempts.attach(entry, control)

        assert control.stop_reason is StopReason.LEASE_LOST

    def test_an_order_for_another_attempt_of_the_task_stops_nothing(
        self, attempts: InFlightAttempts, control: Control
    ) -> None:
        entry = add(attempts, attempt=2)
        attempts.attach(entry, control)

        assert not attempts.stop((entry.claim.task_id, 1), StopReason.CANCELED)

        assert control.stop_reason is None

    def test_an_order_for_a_job_whose_end_is_being_written_comes_too_late(
        self, attempts: InFlightAttempts, control: Control
    ) -> None:
        entry = add(attempts)
        attempts.attach(entry, control)
        attempts.begin_end(entry)

        assert not attempts.stop(key_of(entry), StopReason.CANCELED)

        assert (entry.stop_reason, control.stop_reason) == (None, None)

    def test_a_batch_is_woken_by_an_order_for_one_of_its_jobs(self, attempts: InFlightAttempts, wake: int) -> None:
        first, second = add(attempts), add(attempts)
        attempts.watch([first, second], wake)
        assert not is_readable(wake)

        attempts.stop(key_of(second), StopReason.CANCELED)

        assert is_readable(wake)
        assert (first.stop_reason, second.stop_reason) == (None, StopReason.CANCELED)

    def test_a_batch_is_woken_by_an_order_that_came_before_it_was_watched(
        self, attempts: InFlightAttempts, wake: int
    ) -> None:
        entry = add(attempts)
        attempts.stop(key_of(entry), StopReason.CANCELED)

        attempts.watch([entry], wake)

        assert is_readable(wake)

    def test_a_worker_that_leaves_asks_every_attempt_to_end(self, attempts: InFlightAttempts) -> None:
        entries = [add(attempts) for _ in range(3)]

        attempts.stop_all(StopReason.SHUTDOWN)

        assert [entry.stop_reason for entry in entries] == [StopReason.SHUTDOWN] * 3


class TestReports:
    def test_an_event_is_handed_out_until_it_is_written(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts)
        attempts.note(entry, EventType.STARTED, {"pid": 7}, at=5.0)
        attempts.finish_write(attempts.collect_unwritten())

        unwritten = attempts.collect_unwritten()
        attempts.note(entry, EventType.PROGRESS, {})
        attempts.mark_written(unwritten)
        attempts.finish_write(unwritten)

        ((owner, notes),) = [(data.attempt, data.notes) for data in unwritten]
        assert owner is entry
        assert [(note.type, note.payload, note.at) for note in notes] == [(EventType.STARTED, {"pid": 7}, 5.0)]  # type: ignore[union-attr]
        assert [note.type for note in attempts.begin_end(entry)] == [EventType.PROGRESS]  # type: ignore[union-attr]
        assert not attempts.collect_unwritten()

    def test_an_end_takes_with_it_what_is_still_being_written_when_that_takes_long(
        self, attempts: InFlightAttempts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_WRITE_WAIT", 0.01)
        entry = add(attempts)
        attempts.note(entry, EventType.STARTED, {})
        unwritten = attempts.collect_unwritten()

        notes = attempts.begin_end(entry)

        attempts.mark_written(unwritten)
        assert [note.type for note in notes] == [EventType.STARTED]  # type: ignore[union-attr]

    def test_an_end_waits_for_what_is_being_written_and_leaves_it_out(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts)
        attempts.note(entry, EventType.STARTED, {})
        unwritten = attempts.collect_unwritten()

        def write() -> None:
            attempts.mark_written(unwritten)
            attempts.finish_write(unwritten)

        writer = threading.Timer(0.1, write)
        writer.start()
        notes = attempts.begin_end(entry)
        writer.join()

        assert notes == []

    def test_while_nothing_can_be_written_the_oldest_events_go(
        self, attempts: InFlightAttempts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_NOTES", 3)
        entry = add(attempts)

        for number in range(5):
            attempts.note(entry, EventType.PROGRESS, {"number": number})

        assert [note.payload["number"] for note in attempts.begin_end(entry)] == [2, 3, 4]  # type: ignore[union-attr]

    def test_an_event_that_was_not_written_goes_with_the_end(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts)
        attempts.note(entry, EventType.STARTED, {})

        notes = attempts.begin_end(entry)

        assert [note.type for note in notes] == [EventType.STARTED]  # type: ignore[union-attr]
        assert not attempts.collect_unwritten()

    def test_a_process_is_handed_out_until_it_is_written(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts)
        entry.process = PROCESS
        attempts.finish_write(attempts.collect_unwritten())

        unwritten = attempts.collect_unwritten()
        attempts.mark_written(unwritten)

        assert [(data.attempt, data.process) for data in unwritten] == [(entry, PROCESS)]
        assert not attempts.collect_unwritten()

    def test_progress_is_handed_out_once_for_each_move(self, attempts: InFlightAttempts) -> None:
        entry = add(attempts)
        add(attempts)
        entry.made_progress = True

        assert attempts.take_progress() == [key_of(entry)]
        assert attempts.take_progress() == []
        attempts.restore_progress([key_of(entry)])
        assert attempts.take_progress() == [key_of(entry)], "it could not be written"

    def test_all_that_an_attempt_leaves_is_handed_out_again_when_there_is_more(
        self, attempts: InFlightAttempts
    ) -> None:
        entry = add(attempts)
        attempts.add_carry(entry, {"a": 1})
        first = attempts.collect_unwritten()
        assert [(data.attempt, data.carry) for data in first] == [(entry, {"a": 1})]

        attempts.add_carry(entry, {"b": 2})
        attempts.mark_written(first)

        second = attempts.collect_unwritten()
        assert [(data.attempt, data.carry) for data in second] == [(entry, {"a": 1, "b": 2})]
        attempts.mark_written(second)
        assert not attempts.collect_unwritten()
