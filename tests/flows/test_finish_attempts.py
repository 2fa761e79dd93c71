"""Test ends of attempts: the fence, costs that are never lost, repeated commits, dependants released exactly once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import Connection, select

from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.plans.plans import Dependency
from coordination.domain.tasks.attempts import Claim, Outcome, Usage
from coordination.domain.tasks.tasks import BlockReason, DependencyKind, OnDependencyFailure
from coordination.flows.attempts.finish import DispatchTerms
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.services.attempts.end import close_runs
from coordination.store.queries.jobs import artifacts
from coordination.store.tables.money.costs import costs
from tests.support.finishing import finish_all
from tests.support.world import LEASE, WINDOW, World

pytestmark = pytest.mark.hot_sql

USAGE = Usage(model="m", input_tokens=5, output_tokens=7, cost_usd=Decimal("0.1"))


def ledger(world: World) -> list[tuple[Decimal, bool]]:
    with world.store.read() as tx:
        return [tuple(row) for row in tx.execute(select(costs.c.cost_usd, costs.c.stale))]


def at_once(*acts) -> None:
    """Run these in threads that begin together, and raise the first error."""
    ready = threading.Barrier(len(acts))
    errors: list[BaseException] = []

    def act_when_ready(act) -> None:
        ready.wait()
        try:
            act()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=act_when_ready, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_completed_attempt_leaves_its_evidence(world: World) -> None:
    world.submit("a")
    world.claim("a")

    world.finish("a", output={"lines": 3}, exit_code=0, log="fine", usage=(USAGE,))

    (attempt,) = world.attempts("a")
    assert (attempt.number, attempt.outcome, attempt.exit_code) == (1, Outcome.COMPLETED, 0)
    assert (attempt.output, attempt.log) == ({"lines": 3}, "fine")
    assert world.states() == {"a": "completed"}
    assert world.story("a") == ["created", "claimed", "completed"]
    assert ledger(world) == [(Decimal("0.1"), False)]


def test_a_late_result_changes_nothing_but_its_money_is_kept_and_marked(world: World) -> None:
    world.submit("a")
    world.claim("a")
    late = world.claims["a"]
    world.expire("a")
    world.tick()
    world.claim("a")

    finished = world.finish(late, output="late", usage=(USAGE,))

    assert finished.effects.moved_tasks == set()
    assert world.task("a").state == "running"
    assert world.task("a").attempt == 2
    assert world.outcomes("a") == ["lost", None]
    assert [attempt.output for attempt in world.attempts("a")] == [None, None]
    assert ledger(world) == [(Decimal("0.1"), True)]
    assert "completed" not in world.story("a")


def test_the_attempt_after_a_late_result_still_completes(world: World) -> None:
    world.submit("a")
    world.claim("a")
    late = world.claims["a"]
    world.expire("a")
    world.tick()
    world.claim("a")
    world.finish(late, Outcome.FAILED, error="late", retryable=False)

    world.finish("a", output="right")

    assert world.states() == {"a": "completed"}
    assert [attempt.output for attempt in world.attempts("a")] == [None, "right"]


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELED])
def test_a_result_after_a_cancel_closes_the_attempt_only(world: World, outcome: Outcome) -> None:
    world.submit("a")
    world.claim("a")
    world.cancel("a")

    world.finish("a", outcome, output=None if outcome is Outcome.CANCELED else "late")

    assert world.states() == {"a": "canceled"}
    assert world.outcomes("a") == ["canceled"]
    assert world.attempts("a")[0].output is None


def test_a_commit_whose_answer_was_lost_is_recognised_and_bills_nothing_twice(world: World) -> None:
    world.submit("a", "b < a")
    world.claim("a")
    finish = world.decide("a", output=1, usage=(USAGE,))
    world.write(finish)

    again = world.write(finish)

    assert again.effects.already_recorded == {world.ids["a"]}
    assert again.effects.moved_tasks == set()
    assert ledger(world) == [(Decimal("0.1"), False)]
    assert world.states() == {"a": "completed", "b": "queued"}
    assert world.task("b").pending == 0
    assert world.story("a").count("completed") == 1


def test_a_stop_that_nobody_asked_for_hands_the_task_back(world: World) -> None:
    """Ignore a stray message on the cancel channel: the state in SQL decides."""
    world.submit("a", concurrency=_key_one(), tasks={"a": {"concurrency_key": "k"}})
    world.claim("a")

    world.finish("a", Outcome.CANCELED)

    assert world.states() == {"a": "queued"}
    assert world.used() == {"key:k": 0}
    assert world.task("a").failures == 0
    assert world.claim("a") == ["a"]


def _key_one():
    from coordination.domain.plans.plans import Concurrency

    return Concurrency(keys={"k": 1})


def test_a_diamond_is_released_level_by_level(world: World) -> None:
    world.submit("top", "left < top", "right < top", "bottom < left right")

    world.do("top", "left")

    assert world.states() == {"top": "completed", "left": "completed", "right": "queued", "bottom": "blocked"}
    assert world.task("bottom").pending == 1
    world.do("right")
    assert world.states()["bottom"] == "queued"
    assert world.claim("bottom") == ["bottom"]
    assert set(world.claims["bottom"].needs) == {"left", "right"}


def test_two_last_parents_that_end_at_once_release_their_child_exactly_once(world: World) -> None:
    rounds = 12
    lines = [line for n in range(rounds) for line in (f"a{n}", f"b{n}", f"c{n} < a{n} b{n}")]
    world.submit(*lines)

    for n in range(rounds):
        world.claim(f"a{n}", f"b{n}")
        done = [world.decide(f"a{n}"), world.decide(f"b{n}")]
        at_once(*[lambda finish=finish: world.write(finish) for finish in done])

    assert {world.states()[f"c{n}"] for n in range(rounds)} == {"queued"}
    assert {world.task(f"c{n}").pending for n in range(rounds)} == {0}
    assert {world.story(f"c{n}").count("unblocked") for n in range(rounds)} == {1}


def test_completions_that_share_many_children_never_wait_in_a_ring(world: World) -> None:
    rounds, width = 4, 60
    lines = []
    for n in range(rounds):
        lines += [f"a{n}", f"b{n}"]
        lines += [f"c{n}-{i} < " + (f"a{n} b{n}" if i % 2 else f"b{n} a{n}") for i in range(width)]
    world.submit(*lines)

    for n in range(rounds):
        world.claim(f"a{n}", f"b{n}")
        done = [world.decide(f"a{n}"), world.decide(f"b{n}")]
        at_once(*[lambda finish=finish: _written_at_first_try(world, finish) for finish in done])

    assert {state for key, state in world.states().items() if key.startswith("c")} == {"queued"}


def _written_at_first_try(world: World, finish) -> None:
    from coordination.services.attempts.end import end_attempts

    with world.store.write() as tx:
        end_attempts(tx, world.workspace, finish.claim.project_id, [finish], actor=None)


def test_a_failure_cancels_a_thousand_descendants_that_ask_for_it(world: World) -> None:
    chain = [f"n{i} < {'root' if i < 40 else f'n{i - 40}'}" for i in range(1_000)]
    world.submit("root", *chain)

    world.fail("root")

    states = world.states()
    assert states.pop("root") == "failed"
    assert set(states.values()) == {"canceled"}
    assert "n959, which it needs, ended without success" in (world.task("n999").error or "")
    with world.store.read() as tx:
        from coordination.store.queries.tasks import runs

        run = runs.get(tx, world.workspace, world.run_id)
    assert run is not None
    assert run.finished_at is not None


def test_a_failure_leaves_blocked_what_asks_to_be_blocked(world: World) -> None:
    world.submit("a", "b < a", "c < b", tasks={"b": {"on_dependency_failure": OnDependencyFailure.BLOCK}})

    world.fail("a")

    assert world.states() == {"a": "failed", "b": "blocked", "c": "blocked"}
    assert world.task("b").reasons == BlockReason.DEPENDENCIES


def test_what_runs_anyway_waits_for_the_end_of_all_it_needs(world: World) -> None:
    world.submit("a", "b", "c < a b", tasks={"c": {"on_dependency_failure": OnDependencyFailure.RUN}})

    world.fail("a")

    assert world.states()["c"] == "blocked"
    world.do("b", output=5)
    assert world.states()["c"] == "queued"
    world.claim("c")
    assert world.claims["c"].needs == {
        "a": {"state": "failed", "output": None},
        "b": {"state": "completed", "output": 5},
    }


@pytest.mark.parametrize("kind", [DependencyKind.DISCOVERED_FROM, DependencyKind.RELATED])
def test_a_mere_relation_never_holds_back(world: World, kind: DependencyKind) -> None:
    world.submit("a", "b", tasks={"b": {"needs": [Dependency("a", kind)]}})

    assert world.states() == {"a": "queued", "b": "queued"}
    world.fail("a")
    assert world.states()["b"] == "queued"


def test_ends_of_one_bundle_release_a_child_of_all_of_them_once(world: World) -> None:
    world.submit("a", "b", "c", "d < a b c", "e < c")
    world.claim("a", "b", "c")

    finished = world.write(world.decide("a"), world.decide("b"), world.decide("c", Outcome.FAILED, retryable=False))

    assert len(finished.effects.moved_tasks) == 3
    assert world.states() == {"a": "completed", "b": "completed", "c": "failed", "d": "canceled", "e": "canceled"}


def test_an_end_rings_for_what_it_released(world: World) -> None:
    world.submit("a", "b < a")
    world.claim("a")

    finished = world.finish("a")

    assert [(ready.key, ready.attempt) for ready in finished.work.enqueue] == [("b", 1)]
    assert world.finish(replace(world.claims["a"], attempt=9)).work.enqueue == []


def test_the_last_task_closes_its_run_once(world: World) -> None:
    world.submit("a", "b")
    world.claim("a", "b")
    done = [world.decide("a"), world.decide("b")]
    results = []

    at_once(*[lambda finish=finish: results.append(world.write(finish)) for finish in done])

    closed = [run for result in results for run in result.effects.closed_runs]
    for result in results:
        closed += world.store.transact(
            lambda tx, again=result.effects.maybe_done_runs: close_runs(tx, world.workspace, again)
        )
    assert closed == [world.run_id]


class TestArtifacts:
    def listed(self, world: World, key: str = "a") -> list[str]:
        with world.store.read() as tx:
            return [one.path for one in artifacts.of_task(tx, world.workspace, world.ids[key])]

    def artifacts_of(self, *paths: str) -> tuple[Artifact, ...]:
        return tuple(Artifact(path, 1, "0", f"memory://{path}") for path in paths)

    def test_they_are_listed_with_the_attempts_end(self, world: World) -> None:
        world.submit("a", "b")
        world.claim("a", "b")

        world.write(world.decide("a", artifacts=self.artifacts_of("y", "x")), world.decide("b"))

        assert (self.listed(world), self.listed(world, "b")) == (["x", "y"], [])

    def test_writing_the_end_twice_lists_them_once(self, world: World) -> None:
        world.submit("a")
        world.claim("a")
        finish = world.decide("a", artifacts=self.artifacts_of("x"))
        world.write(finish)

        world.write(finish)

        assert self.listed(world) == ["x"]

    def test_those_of_an_attempt_that_lost_the_task_are_not(self, world: World) -> None:
        world.submit("a")
        world.claim("a", lease=timedelta(seconds=-1))
        stale = world.claims["a"]
        world.tick()
        world.claim("a")

        world.finish(stale, artifacts=self.artifacts_of("x"))
        assert self.listed(world) == []
        world.finish("a", artifacts=self.artifacts_of("y"))

        assert self.listed(world) == ["y"]

    def test_a_retried_task_has_those_of_its_latest_attempt(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 2}})
        world.do("a", outcome=Outcome.FAILED, error="no", retryable=False, artifacts=self.artifacts_of("old"))
        world.retry("a")
        assert self.listed(world) == ["old"]

        world.claim("a")
        assert self.listed(world) == []
        world.finish("a", artifacts=self.artifacts_of("new"))

        assert self.listed(world) == ["new"]


@pytest.mark.parametrize(("hungry", "later", "enqueued"), [(1, True, 0), (0, True, 5), (1, False, 3)])
def test_the_window_is_left_to_the_caller_where_somebody_goes_on(
    world: World,
    hungry: int,
    later: bool,  # noqa: FBT001 - a case
    enqueued: int,
) -> None:
    world.submit("a", *[f"t{number} < a" for number in range(5)])
    world.claim("a")
    finish = world.decide("a")

    def claim(tx: Connection, ids: Sequence[str]) -> list[Claim]:
        return claim_tasks(tx, world.workspace, ids, worker_id=world.worker, lease=LEASE)

    done = world.store.transact(
        lambda tx: finish_all(
            tx,
            world.workspace,
            [finish],
            worker_id=world.worker,
            terms=DispatchTerms(
                WINDOW, lambda _kind: 2, claim=partial(claim, tx), idle_threads=hungry, fill_later=later
            ),
        )
    )

    assert [len(share) for share in done.work.claims] == [2] * hungry
    assert len(done.work.enqueue) == enqueued
    assert done.work.unfilled == (enqueued == 0)
    assert world.sql("SELECT count(*) FROM tasks WHERE enqueued_at IS NOT NULL") == [(enqueued,)]
