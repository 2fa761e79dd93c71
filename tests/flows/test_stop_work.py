"""Test a stop of one project or of a workspace: no claim after it, and the start restores the state before it."""

from __future__ import annotations

import shlex
import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.projects.stops import StartResult, Stop
from coordination.domain.tasks.attempts import Outcome
from coordination.flows.projects.change_project import end_project, pause_project, resume_project
from coordination.flows.projects.stop_work import list_attempts, record_in_flight, start_work, stop_work
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import projects, stops
from coordination.store.queries.tasks import claims
from tests.support.lock_order import watched_order
from tests.support.world import LEASE, World

SILENT = timedelta(seconds=30)


def stop(world: World, project: str | None = None, *, at_once: bool = False) -> tuple[Stop, bool]:
    return world.store.transact(
        lambda tx: stop_work(tx, world.workspace, project, actor="user:ann", reason="so", at_once=at_once)
    )


def start(world: World, project: str | None = None) -> StartResult:
    return world.store.transact(lambda tx: start_work(tx, world.workspace, project, actor="user:ann"))[0]


def status(world: World, project: str | None = None) -> tuple[ProjectStatus, bool]:
    with world.store.read() as tx:
        project_row = projects.get(tx, world.workspace, project or world.project_id)
    assert project_row is not None
    return project_row.status, project_row.stopped


def current(world: World, project: str | None = None) -> Stop | None:
    with world.store.read() as tx:
        return stops.find_covering(tx, world.workspace, project)


class TestWhatItHolds:
    def test_nothing_is_claimed_until_the_start(self, world: World) -> None:
        world.submit("a", "b")

        stop_record, new = stop(world)

        assert (new, stop_record.project, stop_record.actor, stop_record.reason) == (True, None, "user:ann", "so")
        assert world.claim("a") == []
        assert world.states() == {"a": "blocked", "b": "queued"}
        assert start(world).queued == 1
        assert sorted(world.claim("a", "b")) == ["a", "b"]
        assert status(world) == (ProjectStatus.ACTIVE, False)

    def test_a_project_alone(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        other.submit("x")
        world.submit("a")

        stop_record, _ = stop(world, world.project_id)

        assert stop_record.project is not None
        assert stop_record.command == f"coord start --project {stop_record.project}"
        assert world.claim("a") == []
        assert other.claim("x") == ["x"]
        assert current(other, other.project_id) is None
        assert start(world).ended is None, "the workspace itself is not stopped"
        assert world.claim("a") == []
        assert start(world, world.project_id).ended is not None
        assert world.claim("a") == ["a"]

    def test_another_workspace_goes_on(self, world: World) -> None:
        other = World(world.store, name="other")
        other.submit("x")
        world.submit("a")

        stop(world)

        assert other.claim("x") == ["x"]
        assert current(other) is None

    def test_a_project_that_is_made_after_it_is_stopped(self, world: World) -> None:
        stop(world)
        later = World(world.store, project="example.org/acme/mill")

        later.submit("x")

        assert later.claim("x") == []
        assert status(later, later.project_id) == (ProjectStatus.ACTIVE, True)
        start(world)
        assert later.claim("x") == ["x"]

    def test_stopped_twice_it_has_its_first_author_and_may_be_hurried(self, world: World) -> None:
        first, _ = stop(world)

        second, new = stop(world, at_once=True)

        assert (second.id, second.since, new, second.at_once) == (first.id, first.since, False, True)
        assert stop(world)[0].at_once, "what was hurried stays so"

    def test_a_project_with_a_stop_of_its_own_stays_when_the_workspace_starts(self, world: World) -> None:
        world.submit("a")
        stop(world, world.project_id)
        stop(world)

        still = start(world).still

        assert [one.project_id for one in still] == [world.project_id]
        assert world.claim("a") == []
        assert start(world, world.project_id).still == []
        assert world.claim("a") == ["a"]


class TestWhatAPersonSaysMeanwhile:
    def test_a_hold_stays_after_the_start(self, world: World) -> None:
        world.submit("a")
        stop(world)
        world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))

        start(world)

        assert status(world) == (ProjectStatus.ON_HOLD, False)
        assert world.claim("a") == []

    def test_a_hold_of_before_it_stays_too(self, world: World) -> None:
        world.submit("a")
        world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))
        stop(world)

        start(world)

        assert status(world) == (ProjectStatus.ON_HOLD, False)

    def test_a_project_that_is_activated_stays_stopped_until_the_start(self, world: World) -> None:
        world.submit("a")
        world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))
        world.claim("a")
        stop(world)

        world.store.transact(lambda tx: resume_project(tx, world.workspace, world.project_id, actor="ann"))

        assert status(world) == (ProjectStatus.ACTIVE, True)
        assert world.claim("a") == []
        assert start(world).queued == 1

    def test_a_project_that_is_put_away_and_taken_out_again(self, world: World) -> None:
        stop(world)

        def move(status: ProjectStatus) -> None:
            world.store.transact(lambda tx: end_project(tx, world.workspace, world.project_id, status))

        world.submit("a")
        world.store.transact(lambda tx: tx.execute(text("UPDATE runs SET finished_at = created_at")))
        move(ProjectStatus.ARCHIVED)
        assert status(world) == (ProjectStatus.ARCHIVED, False)

        world.store.transact(lambda tx: resume_project(tx, world.workspace, world.project_id, actor="ann"))

        assert status(world) == (ProjectStatus.ACTIVE, True)
        assert world.claim("a") == []


class TestWhatWasInFlight:
    def test_each_attempt_with_its_end(self, world: World) -> None:
        world.submit("back", "done", "once", "runs", tasks={"once": {"repeatable": False}})
        world.claim("back", "done", "once", "runs")
        stop_record, _ = stop(world)
        with world.store.read() as tx:
            seen = list_attempts(tx, world.workspace, stop_record, silent_after=SILENT)
        stop_record = world.store.transact(lambda tx: record_in_flight(tx, world.workspace, stop_record, seen))

        world.finish("back", Outcome.HANDED_BACK)
        world.finish("done")
        world.finish("once", Outcome.HANDED_BACK)
        again, new = stop(world)
        with world.store.read() as tx:
            by_task = {one.task: one for one in list_attempts(tx, world.workspace, again, silent_after=SILENT)}

        assert not new
        assert again.in_flight == stop_record.in_flight
        assert {name for name, one in by_task.items() if not one.ended} == {"runs"}
        assert by_task["back"].words() == "ended, and handed back: coord start continues it"
        assert by_task["done"].words() == "completed meanwhile"
        assert by_task["once"].unknown
        assert by_task["once"].words().startswith("outcome unknown")
        assert "coord tasks force once completed --reason " in by_task["once"].words()
        assert world.states() == {"back": "queued", "done": "completed", "once": "blocked", "runs": "running"}
        assert world.task("back").failures == 0

    def test_the_commands_are_about_what_is_stopped_alone(self, world: World) -> None:
        other = World(world.store, project="example.org/acme/mill")
        for one in (world, other):
            one.submit("back", "once", "runs", tasks={"once": {"repeatable": False}})
            one.claim("back", "once", "runs")
        stop_record, _ = stop(world, world.project_id)
        with world.store.read() as tx:
            seen = list_attempts(tx, world.workspace, stop_record, silent_after=SILENT)
        stop_record = world.store.transact(lambda tx: record_in_flight(tx, world.workspace, stop_record, seen))
        world.finish("back", Outcome.HANDED_BACK)

        with world.store.read() as tx:
            there = list_attempts(tx, world.workspace, stop_record, silent_after=SILENT)
        by_task = {one.task: one for one in there}

        whose = f"--project {shlex.quote(str(stop_record.project))}"
        assert f"coord start {whose} continues it" in by_task["back"].words()
        assert f"kill it with coord stop {whose} --now" in by_task["runs"].words(), "not all of the workspace"
        assert stop_record.again == f"coord stop {whose}"

    def test_a_heartbeat_learns_of_it(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        key = (world.ids["a"], 1)

        def learnt() -> int | None:
            with world.store.write() as tx:
                (renewal,) = workers.renew(tx, world.worker, [key], ttl=LEASE)
            return renewal.stopped

        assert learnt() is None
        stop(world, world.project_id)
        assert learnt() == 0
        stop(world, at_once=True)
        assert learnt() == 1
        start(world)
        assert learnt() == 0
        start(world, world.project_id)
        assert learnt() is None


@pytest.mark.stores("postgres")
class TestClaimsThatHadBegun:
    def test_the_stop_waits_for_them_and_finds_what_they_open(self, world: World) -> None:
        world.submit("a")
        with world.store.write() as before:
            claimed = claims.claim_free(
                before, world.workspace, [world.ids["a"]], held_if=(), worker_id=world.worker, lease=LEASE
            )
            stop_record, _ = stop(world)
            with world.store.read() as tx:
                begun = stops.claiming_transactions(tx)
                assert list_attempts(tx, world.workspace, stop_record, silent_after=SILENT) == [], (
                    "it has not committed"
                )
            assert len(begun) == 1

        with world.store.read() as tx:
            assert stops.claiming_transactions(tx).isdisjoint(begun)
            assert [one.task for one in list_attempts(tx, world.workspace, stop_record, silent_after=SILENT)] == ["a"]
        assert [claim.key for claim in claimed] == ["a"]

    def test_so_it_does_with_claims_under_limits(self, world: World) -> None:
        world.submit("a")
        with world.store.write() as before:
            assert claims.lock_candidates(before, world.workspace, [world.ids["a"]], held_if=())
            stop(world)
            with world.store.read() as tx:
                assert len(stops.claiming_transactions(tx)) == 1

    def test_a_project_that_is_being_made_is_waited_for(self, world: World) -> None:
        created, begun = threading.Event(), list[tuple[Stop, bool]]()
        with world.store.write() as tx:
            stops.lock_workspace(tx, world.workspace, shared=True)
            stopper = threading.Thread(target=lambda: (begun.append(stop(world)), created.set()))
            stopper.start()
            assert not created.wait(0.3), "it waits"
        stopper.join(timeout=30)
        assert created.is_set()
        assert begun[0][1]


@pytest.mark.stores("postgres")
def test_the_order_of_locks(world: World) -> None:
    world.submit("a", "b")

    with watched_order(world.store) as watch:
        stop(world)
        world.claim("a")
        start(world)

    assert not watch.wrong, watch.story


def test_old_stops_are_forgotten_and_those_that_hold_are_not(world: World) -> None:
    world.submit("a")
    stop(world, world.project_id)
    stop(world)
    start(world)
    world.sql("UPDATE stops SET since = '2020-01-01T00:00:00+00:00'")
    world.sql("UPDATE stops SET ended_at = '2020-01-01T00:00:00+00:00' WHERE ended_at IS NOT NULL")
    year = timedelta(days=365)

    with world.store.read() as tx:
        assert stops.count_old(tx, world.workspace, age=year) == 1
    gone = world.store.transact(lambda tx: stops.delete_old(tx, world.workspace, age=year, limit=10))

    assert gone == 1
    with world.store.read() as tx:
        assert [one.project_id for one in stops.list_active(tx, world.workspace)] == [world.project_id]
