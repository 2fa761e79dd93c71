"""Test the heartbeat: it renews each lease, stops canceled and lost attempts, and continues after an error."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.base.ids import new_id
from coordination.domain.fleet.leases import LeaseTerms
from coordination.domain.jobs.output import StoredChunk
from coordination.domain.tasks.attempts import Claim, Usage
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import TaskState
from coordination.flows.projects.stop_work import stop_work
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers as fleet
from coordination.store.queries.jobs import output
from coordination.store.queries.tasks import events
from coordination.store.tables.fleet.workers import workers
from tests.support.broken_stores import Around, Away, Failing, Unanswered
from tests.support.world import World
from workers.leases import heartbeat as module
from workers.leases.heartbeat import Heartbeat
from workers.leases.in_flight import InFlightAttempt, InFlightAttempts, OutputBuffer, PendingEvent, UnwrittenData
from workers.leases.usage_meter import UsageMeter
from workers.runners.base import Control, ProcessRecord, StopReason

pytestmark = pytest.mark.hot_sql

TERMS = LeaseTerms()
PATIENCE = 8.0  # seconds, less than a period of TERMS: what happens within them was not left to the next regular beat
ROW = ("id", "name", "host", "boot_id", "pid", "slots", "version")


class NoPrices:
    def add_cost(self, _claim: Claim, used: Usage) -> Usage:
        return used


class Bench:
    """A heartbeat on a real store, and the attempts that its worker runs, each with its control."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.attempts = InFlightAttempts()
        self.controls: dict[str, Control] = {}
        self.entries: dict[str, InFlightAttempt] = {}
        self.heartbeat = self.heartbeat_on(world.store)

    def heartbeat_on(self, store: Store, *, terms: LeaseTerms = TERMS) -> Heartbeat:
        with self.world.store.read() as tx:
            row = tx.execute(select(workers).where(workers.c.id == self.world.worker)).mappings().one()
        return Heartbeat(store, self.attempts, {name: row[name] for name in ROW}, terms=terms)

    def run(self, *keys: str, sent: float | None = None) -> None:
        """Claim these tasks (at *sent*, otherwise now), and give each a job that can be asked to stop."""
        assert self.world.claim(*keys) == list(keys)
        for key in keys:
            (entry,) = self.attempts.add([self.world.claims[key]], sent=monotonic() if sent is None else sent)
            self.controls[key] = Control(scratch=self.folder)
            self.entries[key] = entry
            self.attempts.attach(entry, self.controls[key])

    def reason(self, key: str) -> StopReason | None:
        return self.controls[key].stop_reason

    def lease(self, key: str) -> timedelta:
        """Return how long the lease of the task's latest attempt is still valid by the database's clock."""
        with self.world.store.read() as tx:
            now = fleet.database_time(tx)
        until = self.world.attempts(key)[-1].lease_until
        assert until is not None
        return until - now

    def close(self) -> None:
        for control in self.controls.values():
            control.close()


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Iterator[Bench]:
    opened = Bench(world, tmp_path)
    yield opened
    opened.close()


class TestRenewal:
    def test_a_beat_makes_each_lease_last_for_the_whole_time_again(self, bench: Bench) -> None:
        bench.world.submit("a", "b", "c")
        bench.run("a", "b")
        bench.world.claim("c", worker=bench.world.register(new_id()))
        bench.world.sql("UPDATE attempts SET lease_until = started_at")

        bench.heartbeat.beat()

        for key in "ab":
            assert timedelta(seconds=20) < bench.lease(key) <= TERMS.ttl
            assert bench.reason(key) is None
        assert bench.lease("c") <= timedelta(0), "another worker's lease"

    def test_one_that_is_renewed_too_late_is_stopped_as_lost(self, bench: Bench) -> None:
        bench.world.submit("a", "b")
        bench.run("a", sent=monotonic() - 31)
        bench.run("b", sent=monotonic() - 29)

        bench.heartbeat.beat()

        assert (bench.reason("a"), bench.reason("b")) == (StopReason.LEASE_LOST, None)

    def test_more_attempts_than_one_statement_carries_are_renewed(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_BATCH", 2)
        keys = [f"t{number}" for number in range(5)]
        bench.world.submit(*keys)
        bench.run(*keys)
        bench.world.sql("UPDATE attempts SET lease_until = started_at")

        bench.heartbeat.beat()

        assert all(bench.lease(key) > timedelta(seconds=20) for key in keys)
        assert {bench.reason(key) for key in keys} == {None}

    def test_a_lease_is_believed_from_when_its_renewal_was_sent(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Count from the sending: the database may have written the renewal at any moment since then."""
        now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: now)
        bench.world.submit("a")
        bench.run("a", sent=980.0)

        class Slow(Around):
            @contextmanager
            def write(self) -> Iterator[Connection]:
                nonlocal now
                now += 7.0
                with self.store.write() as tx:
                    yield tx
                now += 7.0

        bench.heartbeat_on(Slow(bench.world.store)).beat()

        assert bench.entries["a"].renewed_at == 1000.0

    def test_a_beat_that_failed_has_renewed_nothing(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a", sent=980.0)

        with pytest.raises(DatabaseUnavailable):
            bench.heartbeat_on(Away(bench.world.store)).beat()

        assert bench.entries["a"].renewed_at == 980.0
        assert bench.reason("a") is None

    def test_progress_is_written_with_the_beat(self, bench: Bench) -> None:
        bench.world.submit("a", "b")
        bench.run("a", "b")
        bench.entries["a"].made_progress = True

        bench.heartbeat.beat()

        assert bench.world.attempts("a")[0].progress_at is not None
        assert bench.world.attempts("b")[0].progress_at is None


class TestAnAttemptThatIsNotOursAnyMore:
    def test_one_whose_lease_ran_out_and_that_was_rescued_is_stopped_as_lost(self, bench: Bench) -> None:
        bench.world.submit("a", "b")
        bench.run("a", "b")
        bench.world.expire("a")
        bench.world.tick()

        bench.heartbeat.beat()

        assert bench.reason("a") is StopReason.LEASE_LOST
        assert bench.reason("b") is None

    def test_one_whose_task_another_worker_has_claimed_is_stopped_and_renews_no_lease_of_the_other(
        self, bench: Bench
    ) -> None:
        bench.world.submit("a")
        bench.run("a")
        bench.world.expire("a")
        bench.world.tick()
        bench.world.claim("a", worker=bench.world.register(new_id()), lease=timedelta(seconds=3))

        bench.heartbeat.beat()

        assert bench.reason("a") is StopReason.LEASE_LOST
        assert bench.lease("a") <= timedelta(seconds=3)

    def test_one_above_which_an_operator_has_set_the_state_is_stopped_as_lost(self, bench: Bench) -> None:
        """Stop an attempt whose row is still open, so that nothing starts beside it, though a newer one exists."""
        bench.world.submit("a")
        bench.run("a")
        before = bench.entries["a"].renewed_at
        bench.world.store.transact(
            lambda tx: force_task(
                tx, bench.world.workspace, bench.world.ids["a"], TaskState.COMPLETED, actor="ann", reason="by hand"
            )
        )

        bench.heartbeat.beat()

        assert bench.reason("a") is StopReason.LEASE_LOST
        assert bench.entries["a"].renewed_at == before

    def test_one_that_is_stopped_is_told_without_a_message(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        project = bench.world.project_id

        def stop(*, at_once: bool) -> StopReason | None:
            bench.world.store.transact(
                lambda tx: stop_work(tx, bench.world.workspace, project, actor="ann", reason=None, at_once=at_once)
            )
            bench.heartbeat.beat()
            return bench.reason("a")

        assert stop(at_once=False) is StopReason.STOPPED
        assert stop(at_once=True) is StopReason.STOPPED_NOW

    def test_one_that_was_canceled_is_stopped_without_a_message_and_keeps_its_lease_while_it_ends(
        self, bench: Bench
    ) -> None:
        bench.world.submit("a", "b")
        bench.run("a", "b")
        bench.world.cancel("a")

        bench.heartbeat.beat()

        assert bench.reason("a") is StopReason.CANCELED
        assert bench.reason("b") is None
        assert bench.lease("a") > timedelta(seconds=20)

    def test_one_that_was_canceled_and_retried_since_is_stopped_too(self, bench: Bench) -> None:
        """Stop the canceled attempt; the next one waits until it has ended."""
        bench.world.submit("a")
        bench.run("a")
        bench.world.cancel("a")
        bench.world.retry("a")
        assert bench.world.states() == {"a": "queued"}

        bench.heartbeat.beat()

        assert bench.reason("a") is StopReason.CANCELED
        assert bench.world.claim("a") == [], "its job still runs"


class TestTheWorkersOwnRow:
    def row(self, bench: Bench) -> dict[str, object]:
        with bench.world.store.read() as tx:
            return dict(tx.execute(select(workers).where(workers.c.id == bench.world.worker)).mappings().one())

    def age(self, bench: Bench) -> timedelta:
        with bench.world.store.read() as tx:
            return fleet.database_time(tx) - self.row(bench)["heartbeat_at"]  # type: ignore[operator,no-any-return]

    def test_a_beat_shows_that_the_worker_lives_and_what_its_own_clock_says(self, bench: Bench) -> None:
        bench.world.sql("UPDATE workers SET heartbeat_at = '2020-01-01T00:00:00.000000+00:00'")
        assert self.row(bench)["clock_at"] is None

        bench.heartbeat.beat()

        assert self.age(bench) < timedelta(seconds=20)
        assert self.row(bench)["clock_at"] is not None

    def test_a_worker_that_was_taken_for_dead_lives_again_with_its_next_beat(self, bench: Bench) -> None:
        bench.world.sql("UPDATE workers SET heartbeat_at = '2020-01-01T00:00:00.000000+00:00'")
        with bench.world.store.write() as tx:
            assert len(fleet.stop_silent(tx, after=TERMS.ttl * 3)) == 1

        bench.heartbeat.beat()

        assert self.row(bench)["stopped_at"] is None
        assert self.age(bench) < timedelta(seconds=20)

    def test_a_worker_that_was_forgotten_registers_again_and_keeps_its_leases(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        before = self.row(bench)
        bench.world.sql("DELETE FROM workers")

        bench.heartbeat.beat()

        assert {name: self.row(bench)[name] for name in ROW} == {name: before[name] for name in ROW}
        assert bench.reason("a") is None
        assert bench.lease("a") > timedelta(seconds=20)


class TestNotes:
    def story(self, bench: Bench, key: str) -> list[tuple[str, object]]:
        with bench.world.store.read() as tx:
            lines = events.tail(tx, bench.world.workspace, task_id=bench.world.ids[key])
        return [(line.type.value, line.payload) for line in lines]

    def test_events_processes_output_and_what_is_left_are_written_in_one_round(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench.world.submit("a")
        bench.run("a")
        entry = bench.entries["a"]
        entry.process = ProcessRecord(pid=41, pgid=42, start_time=4300, marker="A=b")
        entry.output_buffer = OutputBuffer(1 << 16, began=float("-inf"))
        entry.output_buffer.feed("stdout", b"hello\n")
        bench.attempts.note(entry, EventType.STARTED, {"pid": 41}, at=990.0)
        bench.attempts.add_carry(entry, {"step": 2})
        monkeypatch.setattr(module, "monotonic", lambda: 1000.0)

        bench.heartbeat.write_notes()

        assert self.story(bench, "a")[-1] == ("started", {"pid": 41})
        assert [tuple(row) for row in bench.world.sql("SELECT pgid, pg_start FROM attempts")] == [(42, 4300.0)]
        assert bench.world.task("a").carried_over == {"step": 2}
        with bench.world.store.read() as tx:
            chunks = output.of_attempt(tx, bench.world.workspace, bench.world.ids["a"], 1)
            now = fleet.database_time(tx)
            (happened,) = [
                line.at
                for line in events.tail(tx, bench.world.workspace, task_id=bench.world.ids["a"])
                if line.type is EventType.STARTED
            ]
        assert chunks == [StoredChunk(0, 0, 6, (("stdout", "hello\n"),))]
        assert timedelta(seconds=10) <= now - happened < timedelta(seconds=30), "as long ago as it happened"
        assert entry.output_buffer.due(0.0) == [], "it is not written again"

    def test_an_attempt_that_was_taken_away_adds_nothing_to_the_story_of_the_next_one(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        entry = bench.entries["a"]
        entry.process = ProcessRecord(pid=41, pgid=42, start_time=4300, marker="A=b")
        bench.attempts.note(entry, EventType.STARTED, {})
        bench.attempts.add_carry(entry, {"step": 2})
        bench.world.expire("a")
        bench.world.tick()
        bench.world.claim("a", worker=bench.world.register(new_id()))

        bench.heartbeat.write_notes()

        assert "started" not in [line for line, _ in self.story(bench, "a")]
        assert bench.world.task("a").carried_over == {}
        assert [tuple(row) for row in bench.world.sql("SELECT pgid FROM attempts")] == [(None,), (None,)]

    def speak(self, bench: Bench, key: str, **payload: object) -> None:
        entry = bench.entries[key]
        entry.process = ProcessRecord(pid=41, pgid=42, start_time=4300, marker="A=b")
        bench.attempts.note(entry, EventType.PROGRESS, payload)
        bench.attempts.add_carry(entry, {"step": 2})

    def progress(self, bench: Bench, key: str) -> list[dict[str, object] | None]:
        return [payload for line, payload in self.story(bench, key) if line == "progress"]

    def test_nothing_is_lost_by_a_write_that_fails(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        self.speak(bench, "a", said="one")
        heartbeat = bench.heartbeat_on(Failing(bench.world.store, DatabaseUnavailable("away"), times=1))
        with pytest.raises(DatabaseUnavailable):
            heartbeat.write_notes()
        self.speak(bench, "a", said="two")

        heartbeat.write_notes()
        heartbeat.write_notes()

        assert self.progress(bench, "a") == [{"said": "one"}, {"said": "two"}]
        assert [tuple(row) for row in bench.world.sql("SELECT pgid, pg_start FROM attempts")] == [(42, 4300.0)]
        assert bench.world.task("a").carried_over == {"step": 2}

    def test_what_could_not_be_written_goes_with_the_end(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        self.speak(bench, "a", said="one")
        with pytest.raises(DatabaseUnavailable):
            bench.heartbeat_on(Away(bench.world.store)).write_notes()

        notes = bench.attempts.begin_end(bench.entries["a"])

        assert [note.payload for note in notes if isinstance(note, PendingEvent)] == [{"said": "one"}]

    @pytest.mark.stores("postgres")
    def test_events_whose_commit_was_not_answered_are_written_once(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        self.speak(bench, "a", said="one")
        heartbeat = bench.heartbeat_on(Unanswered(bench.world.store))
        with pytest.raises(DatabaseUnavailable):
            heartbeat.write_notes()
        self.speak(bench, "a", said="two")

        heartbeat.write_notes()

        assert self.progress(bench, "a") == [{"said": "one"}, {"said": "two"}]

    @pytest.mark.stores("postgres")
    def test_events_whose_commit_never_came_are_written_again(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        self.speak(bench, "a", said="one")
        heartbeat = bench.heartbeat_on(Unanswered(bench.world.store, commits=False))
        with pytest.raises(DatabaseUnavailable):
            heartbeat.write_notes()

        heartbeat.write_notes()

        assert self.progress(bench, "a") == [{"said": "one"}]

    def test_what_cannot_be_stored_is_nobody_elses_loss(self, bench: Bench) -> None:
        bench.world.submit("a", "b")
        bench.run("a", "b")
        bench.attempts.note(bench.entries["a"], EventType.PROGRESS, {"said": object()})
        self.speak(bench, "b", said="two")

        bench.heartbeat.write_notes()
        self.speak(bench, "a", said="three")
        bench.heartbeat.write_notes()

        assert self.progress(bench, "b") == [{"said": "two"}]
        assert self.progress(bench, "a") == [{"said": "three"}]

    def test_progress_that_could_not_be_written_comes_again(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        bench.entries["a"].made_progress = True
        heartbeat = bench.heartbeat_on(Failing(bench.world.store, DatabaseUnavailable("away"), times=1))
        with pytest.raises(DatabaseUnavailable):
            heartbeat.beat()

        heartbeat.beat()

        assert bench.world.attempts("a")[-1].progress_at is not None

    def test_output_that_could_not_be_written_comes_again(self, bench: Bench) -> None:
        bench.world.submit("a")
        bench.run("a")
        live = bench.entries["a"].output_buffer = OutputBuffer(1 << 16, began=float("-inf"))
        live.feed("stdout", b"hello\n")
        with pytest.raises(DatabaseUnavailable):
            bench.heartbeat_on(Away(bench.world.store)).write_notes()

        bench.heartbeat.write_notes()

        with bench.world.store.read() as tx:
            assert len(output.of_attempt(tx, bench.world.workspace, bench.world.ids["a"], 1)) == 1


class TestTheLoop:
    """Test the loop in its own thread, as in a worker; its pause is made short, its period is not."""

    @pytest.fixture(autouse=True)
    def _short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_NOTES_EVERY", 0.02)

    @contextmanager
    def running(self, heartbeat: Heartbeat) -> Iterator[None]:
        heartbeat.start()
        try:
            yield
        finally:
            heartbeat.stop()

    @pytest.mark.parametrize("error", [DatabaseUnavailable("away"), RuntimeError("a bug")], ids=["away", "bug"])
    def test_a_beat_that_failed_is_repeated_soon_and_not_a_whole_period_later(
        self, bench: Bench, error: Exception
    ) -> None:
        store = Failing(bench.world.store, error, times=2)
        bench.world.submit("a")
        bench.run("a")

        with self.running(bench.heartbeat_on(store)):
            assert store.succeeded.wait(PATIENCE)

        assert store.failed == 2
        assert bench.entries["a"].renewed_at > 0

    def test_rounds_are_as_far_apart_as_they_are_to_be_whatever_one_of_them_takes(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Keep the period between rounds: a beat that is due in the next round cannot wait for the one after it."""
        now, begun = [100.0], []
        monkeypatch.setattr(module, "_NOTES_EVERY", 0.5)
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

        class Noted(Around):
            @contextmanager
            def write(self) -> Iterator[Connection]:
                begun.append(now[0])
                if len(begun) < 3:
                    now[0] += 0.1
                    raise DatabaseUnavailable("away")
                with self.store.write() as tx:
                    yield tx

        class Hurry(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                now[0] += timeout or 0
                if len(begun) == 5:
                    heartbeat._ended.set()
                return False

        terms = LeaseTerms(ttl=timedelta(seconds=1.5), heartbeat=timedelta(seconds=0.5))
        heartbeat = bench.heartbeat_on(Noted(bench.world.store), terms=terms)
        bench.attempts.hurry = Hurry()

        heartbeat._renew_loop()

        assert [later - earlier for earlier, later in itertools.pairwise(begun)] == pytest.approx([0.5] * 4)

    def test_a_beat_that_succeeded_is_followed_by_the_next_one_after_a_whole_period(self, bench: Bench) -> None:
        rounds = Rounds(20)
        store = Failing(bench.world.store, RuntimeError("not raised"), times=0)
        heartbeat = Heartbeat(store, rounds, {"id": bench.world.worker}, terms=TERMS)

        with self.running(heartbeat):
            assert rounds.over.wait(PATIENCE)

        assert store.succeeded.is_set()
        assert store.writes == 1

    def test_what_a_job_waits_for_is_written_before_the_next_round(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_NOTES_EVERY", 600.0)
        slow = LeaseTerms(ttl=timedelta(hours=1), heartbeat=timedelta(minutes=10))
        bench.world.submit("a")
        bench.run("a")
        entry = bench.entries["a"]
        entry.claim = replace(entry.claim, budgeted=True)
        usage_meter = entry.usage_meter = UsageMeter(entry.claim, NoPrices())  # type: ignore[arg-type]
        usage_meter.set_usage([Usage("m", input_tokens=10, cost_usd=Decimal("0.5"))])
        store = Failing(bench.world.store, RuntimeError("not raised"), times=0)

        with self.running(bench.heartbeat_on(store, terms=slow)):
            bench.attempts.hurry.set()
            assert store.succeeded.wait(PATIENCE)

        assert [tuple(row) for row in bench.world.sql("SELECT total_tokens FROM costs")] == [(10,)]
        assert usage_meter.is_settled

    def test_a_worker_that_stops_renews_nothing_any_more(self, bench: Bench) -> None:
        heartbeat = bench.heartbeat_on(bench.world.store)
        heartbeat.start()

        heartbeat.stop()

        assert not [thread for thread in threading.enumerate() if thread.name in {"coord-heartbeat", "coord-fence"}]


class Rounds(InFlightAttempts):
    """Stands in for the attempts and counts rounds of the loop: ``over`` is set after *many* of them."""

    def __init__(self, many: int) -> None:
        super().__init__()
        self.left = many
        self.over = threading.Event()

    def collect_unwritten(self) -> list[UnwrittenData]:
        self.left -= 1
        if self.left <= 0:
            self.over.set()
        return super().collect_unwritten()
