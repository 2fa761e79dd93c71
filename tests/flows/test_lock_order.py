"""Test that all transactions lock rows in one order: no deadlock in any combination, and no useless lock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from coordination.domain.jobs.output import StoredChunk
from coordination.domain.plans.plans import BudgetCap, Concurrency
from coordination.domain.tasks.attempts import DiscoveredTask, Usage
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskState
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.projects.retain import RetentionAges, retain
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.queries.jobs import output
from coordination.store.queries.tasks import attempts
from tests.support.lock_order import Watch, watched_order
from tests.support.traffic import Traffic, hurry_deadlocks, refused_by_the_server
from tests.support.world import World

pytestmark = [pytest.mark.stores("postgres"), pytest.mark.own_database]

FALLS = {"on_dependency_failure": OnDependencyFailure.CANCEL}


def test_all_transactions_meet_on_one_graph_and_none_is_ended_for_its_locks(world: World) -> None:
    hurry_deadlocks(world.store)
    traffic = Traffic(world, seed=7)

    with refused_by_the_server(world.store) as refused, watched_order(world.store) as watch:
        traffic.flow(6)

    for error in traffic.accidents:
        raise error
    assert not refused, f"{len(refused)} statements, such as\n" + "\n\n".join(sorted(refused)[:10])
    assert not watch.wrong, watch.story
    assert watch.waits > 0
    assert traffic.unavailable == []
    assert {"claim", "end", "beat", "notes", "tick", "cancel", "retry", "force", "retain"} <= set(traffic.done)


class TestOneTransactionAlone:
    """Test one transaction alone: the order of its locks shows without a concurrent one, too."""

    def watched(self, world: World, act: Callable[[], object]) -> Watch:
        with watched_order(world.store) as watch:
            act()
        assert not watch.wrong, watch.story
        assert watch.waits > 0
        return watch

    def test_a_dead_worker_with_jobs_in_two_projects(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attempts, "_PAGE", 1)
        other = World(world.store, project="example.org/acme/mill")
        world.submit("a")  # so that the other's project is the later one, and has the earlier job
        for each in (other, world):
            each.submit("a", concurrency=Concurrency(project=8))
            each.claim("a", worker=world.worker)

        self.watched(world, lambda: world.store.transact(lambda tx: rescue_worker(tx, world.worker)))

        assert world.states() == other.states() == {"a": "queued"}

    def test_a_lost_task_that_is_not_tried_again_and_one_that_waits_for_it(self, world: World) -> None:
        world.submit("late < early", "early", tasks={"late": FALLS, "early": {"max_attempts": 1, "repeatable": True}})
        world.claim("early")
        world.sql("UPDATE tasks SET losses = 1000 WHERE key = 'early'")
        world.expire("early")

        self.watched(world, world.tick)

        assert world.states() == {"late": "canceled", "early": "failed"}

    @pytest.mark.parametrize("target", [TaskState.CANCELED, TaskState.FAILED])
    def test_a_completed_task_that_is_ended_badly_by_force(self, world: World, target: TaskState) -> None:
        world.submit("last < next", "next < done", "done", tasks={"last": FALLS, "next": FALLS})
        world.do("done")

        self.watched(
            world,
            lambda: world.store.transact(
                lambda tx: force_task(tx, world.workspace, world.ids["done"], target, actor="ann", reason="so")
            ),
        )

        assert world.states() == {"last": "canceled", "next": "canceled", "done": target.value}

    def test_an_end_that_finds_variants(self, world: World) -> None:
        budget = BudgetCap(usd=Decimal(100))
        world.submit("a", "b", concurrency=Concurrency(project=8), budget=budget)
        world.claim("a", "b")
        discovered = DiscoveredTask({"key": "more", "run": {"shell": "true"}, "variants": 2})
        first = world.decide("a", usage=(Usage("m", cost_usd=Decimal(1)),), discovered=(discovered,))
        free = world.decide("b", discovered=(replace(discovered, task={**discovered.task, "key": "other"}),))

        self.watched(world, lambda: world.write(first))
        self.watched(world, lambda: world.write(free, hungry=True))

        assert world.states(("a", "b")) == {"a": "completed", "b": "completed"}

    def test_a_run_that_is_old(self, world: World) -> None:
        world.submit("a", "b < a")
        world.claim("a")
        with world.store.write() as tx:
            output.write(tx, world.workspace, [(world.ids["a"], 1, [StoredChunk(0, 0, 1, (("out", "x"),))])])
        world.finish("a")
        world.do("b")
        world.tick()
        world.sql("UPDATE runs SET finished_at = '2020-01-01T00:00:00+00:00'")
        ages = RetentionAges(timedelta(days=1), timedelta(0), timedelta(0))

        self.watched(world, lambda: retain(world.store, world.workspace, ages, rest=lambda _seconds: False))

        assert world.sql("SELECT 1 FROM tasks") == []


def test_an_order_that_is_wrong_is_seen(world: World) -> None:
    world.submit("a", "b", concurrency=Concurrency(project=8))
    lock = "SELECT id FROM tasks WHERE id = :id FOR UPDATE"
    a, b = ({"id": world.ids[key]} for key in "ab")
    slots = "SELECT name FROM slots WHERE project_id = :project FOR UPDATE", {"project": world.project_id}
    wrong = {
        "tasks after slots": [slots, (lock, a)],
        "more tasks, not in the order": [(lock, b), (lock, a)],
        "more tasks after those that were free": [(lock + " SKIP LOCKED", a), (lock, b)],
    }
    right = [
        [(lock, a), (lock, b), slots],
        [(lock, b), (lock + " NOWAIT", a), (lock, a)],
        [slots, (lock + " NOWAIT", a)],
    ]

    for why, statements in [*wrong.items(), *((None, statements) for statements in right)]:
        with watched_order(world.store) as watch, world.store.write() as tx:
            for statement, values in statements:
                tx.exec_driver_sql(*_in_driver(statement, values))
        assert [story.startswith(why or "") for story in watch.wrong] == ([True] if why else [])


def _in_driver(statement: str, values: dict[str, str]) -> tuple[str, dict[str, str]]:
    for name in values:
        statement = statement.replace(f":{name}", f"%({name})s::uuid")
    return statement, values
