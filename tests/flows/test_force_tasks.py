"""Test that an operator forces a task's state, from each state to each sensible one, and that the store stays valid."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from coordination.base.errors import Conflict, CoordinationError, IllegalMove, NotFound, Refused
from coordination.base.ids import new_id
from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import FORCIBLE_STATES, OnDependencyFailure, TaskState
from coordination.flows.tasks.force_tasks import ForceResult, force_task
from coordination.services.attempts.rescue import rescue_expired
from coordination.store.engine import open_store
from coordination.store.queries.tasks import events, runs
from tests.support.invariants import broken
from tests.support.refusals import refuses
from tests.support.speed import patience
from tests.support.world import World

CANCEL, BLOCK, RUN = OnDependencyFailure.CANCEL, OnDependencyFailure.BLOCK, OnDependencyFailure.RUN
GRAPH = ("p", "x < p", "canceled < x", "blocked < x", "runs < x", "after < canceled", "two < x q", "q")
POLICIES = {
    "canceled": {"on_dependency_failure": CANCEL},
    "blocked": {"on_dependency_failure": BLOCK},
    "runs": {"on_dependency_failure": RUN},
}


def force(world: World, key: str, target: str, *, reason: str = "I know better", output: Any = None) -> ForceResult:
    return world.store.transact(
        lambda tx: force_task(
            tx, world.workspace, world.ids[key], TaskState(target), actor="ann", reason=reason, output=output
        )
    )


def submit(world: World) -> None:
    world.submit(*GRAPH, tasks={**POLICIES, "x": {"max_attempts": 2}}, concurrency=Concurrency(project=5))


def blocked(world: World) -> None:
    submit(world)


def queued(world: World) -> None:
    submit(world)
    world.do("p")


def backing_off(world: World) -> None:
    queued(world)
    world.do("x", outcome=Outcome.FAILED)


def running(world: World) -> None:
    queued(world)
    world.claim("x")


def completed(world: World) -> None:
    queued(world)
    world.do("x", output="mine")


def completed_and_used(world: World) -> None:
    completed(world)
    world.do("blocked")
    world.claim("canceled")


def failed(world: World) -> None:
    queued(world)
    world.fail("x")


def canceled(world: World) -> None:
    queued(world)
    world.cancel("x")


def canceled_while_running(world: World) -> None:
    running(world)
    world.cancel("x")


def canceled_by_its_dependency(world: World) -> None:
    submit(world)
    world.fail("p")


def unknown(world: World) -> None:
    world.submit(*GRAPH, tasks={**POLICIES, "x": {"repeatable": False}}, concurrency=Concurrency(project=5))
    world.do("p")
    world.claim("x")
    world.expire("x")
    world.tick()


def run_is_over(world: World) -> None:
    failed(world)
    world.do("q", "runs")
    world.cancel("blocked")


BEFORE: tuple[Callable[[World], None], ...] = (
    blocked,
    queued,
    backing_off,
    running,
    completed,
    completed_and_used,
    failed,
    canceled,
    canceled_while_running,
    canceled_by_its_dependency,
    unknown,
    run_is_over,
)


def end_what_runs(world: World) -> None:
    """Let every open attempt report its end, as its worker would after a request to stop."""
    for claim in list(world.claims.values()):
        world.finish(claim, Outcome.CANCELED)


@pytest.mark.parametrize("target", FORCIBLE_STATES)
@pytest.mark.parametrize("before", BEFORE)
def test_from_every_state_to_every_sensible_one_the_store_stays_whole(
    world: World, before: Callable[[World], None], target: TaskState
) -> None:
    before(world)
    state = world.task("x").state
    assert broken(world.store) == []
    if state is target and state is not TaskState.QUEUED:
        with refuses(IllegalMove):
            force(world, "x", target)
        assert world.task("x").state is state
        return

    done = force(world, "x", target)

    waived = {world.ids["x"]} if target is TaskState.QUEUED else set()
    assert (done.before, done.state, world.task("x").state) == (state, target, target)
    assert broken(world.store, waived=waived) == []
    assert world.story("x").count("forced") == 1

    end_what_runs(world)

    assert world.task("x").state is target, "what was fenced off changed nothing"
    assert broken(world.store, waived=waived) == []
    world.tick()
    for _ in range(len(GRAPH)):
        for key in world.claim(*world.ids):
            world.finish(key)
        world.tick()
    ends = world.states()
    assert broken(world.store, waived=waived) == []
    assert "running" not in ends.values()
    assert "queued" not in ends.values(), "what was ready ran to its end"
    if target is TaskState.COMPLETED or (target is TaskState.QUEUED and ends["x"] == "completed"):
        assert {ends[key] for key in ("runs", "two", "q")} == {"completed"}
        wanted = "canceled" if before is run_is_over else "completed"
        assert ends["blocked"] == wanted


class TestCompleted:
    def test_its_dependants_start_and_see_the_output_that_was_given(self, world: World) -> None:
        failed(world)

        force(world, "x", "completed", output={"answer": 42})

        assert world.claim("blocked", "canceled") == ["canceled", "blocked"]
        assert world.claims["blocked"].needs["x"] == {"state": "completed", "output": {"answer": 42}}
        assert world.outcomes("x")[-1] == "completed"
        assert world.task("x").error is None

    def test_what_was_canceled_because_of_it_comes_back_and_what_a_person_canceled_does_not(self, world: World) -> None:
        queued(world)
        world.cancel("two")
        world.fail("x")
        assert world.states(["canceled", "after", "two"]) == dict.fromkeys(("canceled", "after", "two"), "canceled")

        done = force(world, "x", "completed")

        assert {world.ids["canceled"], world.ids["after"]} == set(done.reopened)
        assert world.states(["canceled", "after", "two"]) == {
            "canceled": "queued",
            "after": "blocked",
            "two": "canceled",
        }

    def test_a_run_that_was_over_with_a_failure_is_over_and_completed(self, world: World) -> None:
        world.submit("only")
        world.fail("only")

        force(world, "only", "completed")

        with world.store.read() as tx:
            run = runs.get(tx, world.workspace, world.run_id)
        assert (run.state, run.finished_at is not None) == ("completed", True)


class TestRunning:
    @pytest.mark.parametrize("target", FORCIBLE_STATES)
    def test_the_worker_is_named_to_be_told_and_its_late_result_is_refused(self, world: World, target: str) -> None:
        running(world)

        done = force(world, "x", target)
        ended = world.finish("x", Outcome.COMPLETED, output="late").effects

        assert done.fenced == [(world.ids["x"], 1)]
        assert ended.moved_tasks == set()
        assert world.task("x").state == target
        assert world.outcomes("x")[0] == "canceled"
        assert world.attempts("x")[0].output is None

    def test_nothing_starts_beside_it(self, world: World) -> None:
        running(world)

        force(world, "x", "queued")

        assert world.claim("x") == [], "the first attempt has not ended"
        assert world.used() == {"project": 1}
        world.finish("x", Outcome.CANCELED)
        assert world.used() == {"project": 0}
        assert world.claim("x") == ["x"]
        assert world.claims["x"].attempt == 2

    def test_a_dead_worker_holds_nothing_up_longer_than_its_lease(self, world: World) -> None:
        running(world)
        force(world, "x", "completed")

        world.expire("x")
        world.tick()

        assert world.outcomes("x") == ["canceled", "completed"]
        assert world.used() == {"project": 0}
        assert world.task("x").losses == 0

    def test_one_without_an_attempt_finds_its_way_out(self, world: World) -> None:
        running(world)
        world.sql("UPDATE attempts SET finished_at = started_at, outcome = 'lost' WHERE finished_at IS NULL")

        force(world, "x", "queued")

        assert world.claim("x") == ["x"]


class TestQueued:
    def test_it_runs_whatever_it_waited_for(self, world: World) -> None:
        blocked(world)

        force(world, "x", "queued")

        assert world.claim("x") == ["x"]
        world.do("p")  # what it had waited for ends later, and releases nothing a second time
        assert world.states(["x"]) == {"x": "running"}

    def test_a_back_off_is_over_and_its_attempts_count_anew(self, world: World) -> None:
        backing_off(world)
        assert world.claim("x") == []

        force(world, "x", "queued")

        assert world.task("x").failures == 0
        assert world.claim("x") == ["x"]

    def test_what_a_completed_task_had_released_waits_again_unless_it_has_begun(self, world: World) -> None:
        completed_and_used(world)

        force(world, "x", "queued")

        assert world.states() == {
            "p": "completed",
            "x": "queued",
            "canceled": "running",
            "blocked": "completed",
            "runs": "blocked",
            "after": "blocked",
            "two": "blocked",
            "q": "queued",
        }
        assert (world.task("runs").pending, world.task("two").pending) == (1, 2)

    def test_a_run_that_was_over_goes_on_with_a_supervisor(self, world: World) -> None:
        world.submit("only")
        world.do("only")
        assert world.tick().ended

        force(world, "only", "queued")

        assert [ready.key for ready in world.tick().ring] == ["only"]
        assert run_story(world)[-2:] == ["forced", "run_reopened"]
        world.do("only")
        assert run_story(world).count("run_finished") == 2


def run_story(world: World) -> list[str]:
    with world.store.read() as tx:
        return [event.type.value for event in events.tail(tx, world.workspace, run_id=world.run_id)]


class TestFailedAndCanceled:
    @pytest.mark.parametrize("target", ["failed", "canceled"])
    @pytest.mark.parametrize("before", [blocked, queued, running, completed])
    def test_dependants_are_treated_as_they_ask(
        self, world: World, before: Callable[[World], None], target: str
    ) -> None:
        before(world)

        force(world, "x", target, reason="it did harm")

        states = world.states(["x", "canceled", "after", "blocked", "runs"])
        assert states == {
            "x": target,
            "canceled": "canceled",
            "after": "canceled",
            "blocked": "blocked",
            "runs": "queued",
        }
        assert "it did harm" in world.task("x").error


class TestRefusals:
    @pytest.mark.parametrize("target", ["running", "blocked"])
    def test_no_task_is_forced_into_what_only_happens_to_it(self, world: World, target: str) -> None:
        submit(world)

        with refuses(Refused):
            force(world, "x", target)

    def test_a_reason_is_not_optional_and_only_what_completes_has_an_output(self, world: World) -> None:
        submit(world)

        with refuses(Refused, field="reason"):
            force(world, "x", "failed", reason=" \n")
        with refuses(Refused, field="output"):
            force(world, "x", "failed", output="x")
        assert world.story("x") == ["created"]

    def test_a_task_that_is_not_there_is_named(self, world: World) -> None:
        submit(world)
        world.ids["ghost"] = new_id()

        with refuses(NotFound):
            force(world, "ghost", "queued")

    def test_a_task_of_another_workspace_is_not_there(self, world: World) -> None:
        queued(world)
        other = World(world.store, name="other")
        other.ids["x"] = world.ids["x"]

        for target in FORCIBLE_STATES:
            with pytest.raises(NotFound):
                force(other, "x", target)
        assert broken(world.store) == []


def test_the_story_says_who_did_it_from_where_and_why(world: World) -> None:
    running(world)

    force(world, "x", "canceled", reason="it  hung\nfor hours")

    with world.store.read() as tx:
        rows = events.tail(tx, world.workspace, task_id=world.ids["x"])
    (forced,) = [event for event in rows if event.type == "forced"]
    assert forced.actor == "ann"
    assert forced.payload == {"from": "running", "to": "canceled", "reason": "it hung for hours", "fenced": [1]}


class TestRaces:
    """Test two concurrent transactions on PostgreSQL, many times: whichever is first, the store stays valid."""

    ROUNDS = 25

    @pytest.fixture
    def pg(self, postgres_url: str) -> Any:
        world = World(open_store(postgres_url))
        yield world
        world.store.close()

    def race(self, *acts: Callable[[], Any]) -> None:
        gate = threading.Barrier(len(acts))
        errors: list[BaseException] = []

        def begin(act: Callable[[], Any]) -> None:
            gate.wait(patience(10))
            try:
                act()
            except CoordinationError as error:
                if not isinstance(error, Conflict):
                    errors.append(error)
            except BaseException as error:  # noqa: BLE001 - collected for the assertion
                errors.append(error)

        threads = [threading.Thread(target=begin, args=(act,)) for act in random.sample(acts, len(acts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience(30))
        assert errors == []

    @pytest.mark.parametrize("target", FORCIBLE_STATES)
    def test_force_against_finish(self, pg: World, target: str) -> None:
        for _ in range(self.ROUNDS):
            running(pg)
            self.race(lambda: force(pg, "x", target), lambda: pg.finish("x", output="the worker's"))

            waived = {pg.ids["x"]} if target == "queued" else set()
            assert broken(pg.store, waived=waived) == []
            assert pg.task("x").state in (target, "completed")
            assert pg.story("x").count("forced") <= 1
            assert pg.used() == {"project": 0}
            pg.cancel_run(pg.run_id)

    @pytest.mark.parametrize("target", FORCIBLE_STATES)
    def test_force_against_claim(self, pg: World, target: str) -> None:
        for _ in range(self.ROUNDS):
            queued(pg)
            pg.claims.clear()
            self.race(lambda: force(pg, "x", target), lambda: pg.claim("x"))

            end_what_runs(pg)
            assert pg.task("x").state == target
            assert broken(pg.store, waived={pg.ids["x"]}) == []
            pg.cancel_run(pg.run_id)

    @pytest.mark.parametrize("target", FORCIBLE_STATES)
    def test_force_against_rescue(self, pg: World, target: str) -> None:
        def rescue() -> None:
            pg.store.transact(lambda tx: rescue_expired(tx, pg.workspace, pg.project_id))

        for _ in range(self.ROUNDS):
            running(pg)
            pg.expire("x")
            self.race(lambda: force(pg, "x", target), rescue)

            rescue()
            assert pg.task("x").state == target
            assert broken(pg.store, waived={pg.ids["x"]}) == []
            assert pg.used() == {"project": 0}
            pg.cancel_run(pg.run_id)

    def test_force_against_the_end_of_what_it_waits_for(self, pg: World) -> None:
        for _ in range(self.ROUNDS):
            submit(pg)
            pg.claim("p")
            self.race(lambda: force(pg, "x", "queued"), lambda: pg.finish("p"))

            assert pg.states(["p", "x"]) == {"p": "completed", "x": "queued"}
            assert broken(pg.store, waived={pg.ids["x"]}) == []
            pg.cancel_run(pg.run_id)

    def test_two_operators(self, pg: World) -> None:
        for _ in range(self.ROUNDS):
            running(pg)
            self.race(lambda: force(pg, "x", "completed"), lambda: force(pg, "x", "failed"))

            assert pg.task("x").state in ("completed", "failed")
            assert broken(pg.store) == []
            pg.finish("x", Outcome.CANCELED)
            pg.cancel_run(pg.run_id)
