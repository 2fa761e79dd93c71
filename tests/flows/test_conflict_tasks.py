"""Test conflict tasks of one run: one runs at a time, and whatever its end, the next one starts."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from coordination.base.ids import new_id
from coordination.domain.jobs.checkouts import merge_key, run_branch
from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import DiscoveredTask, Outcome
from coordination.flows.tasks.explain_task import explain_task
from coordination.store.queries.tasks import tasks
from tests.support.races import claimed_in_batches
from tests.support.world import World

pytestmark = pytest.mark.hot_sql

COMMIT = "a" * 40


def conflict_task(world: World, key: str) -> DiscoveredTask:
    workspace = {"kind": "git-worktree", "merge": {"commit": COMMIT, "task": key}}
    run = {"agent": "claude", "prompt": "Bring them together"}
    limit = merge_key(world.run_id)
    task = {"key": f"{key}-merge-1", "run": run, "checkout": workspace, "concurrency_key": limit}
    return DiscoveredTask(task, blocks_finder=True, by_system=True)


def in_conflict(world: World, keys: Iterable[str]) -> list[str]:
    """Let these tasks, whose changes conflict, wait for a conflict task each; return the keys of the conflict tasks."""
    for key in keys:
        if key not in world.claims:
            assert world.claim(key) == [key]
        world.finish(key, Outcome.DEFERRED, discovered=(conflict_task(world, key),))
    conflict_keys = [f"{key}-merge-1" for key in keys]
    with world.store.write() as tx:
        there = tasks.lock_by_key(tx, world.workspace, world.run_id, conflict_keys)
    world.ids |= {key: task.id for key, task in there.items()}
    return conflict_keys


@pytest.fixture
def waiting(world: World) -> list[str]:
    """Provide three conflict tasks of one run."""
    world.submit("a", "b", "c")
    return in_conflict(world, "abc")


def test_one_is_claimed_at_a_time_and_the_next_one_when_it_is_done(world: World, waiting: list[str]) -> None:
    assert world.claim(*waiting) == ["a-merge-1"]
    assert world.claim(*waiting) == []

    world.finish("a-merge-1")

    assert world.claim(*waiting) == ["b-merge-1"]
    assert world.states("abc") == {"a": "queued", "b": "blocked", "c": "blocked"}


@pytest.mark.parametrize("end", ["failed", "deferred", "asks", "lost", "canceled", "handed back"])
def test_whatever_becomes_of_it_the_next_one_goes_on(world: World, waiting: list[str], end: str) -> None:
    assert world.claim(waiting[0]) == [waiting[0]]

    match end:
        case "failed":
            world.finish(waiting[0], Outcome.FAILED, error="no", retryable=False)
        case "deferred":
            world.finish(waiting[0], Outcome.DEFERRED, error="later")
        case "asks":
            world.finish(waiting[0], Outcome.DEFERRED, question="Which side?")
        case "lost":
            world.expire(waiting[0])
            world.tick()
        case "canceled":
            world.cancel(waiting[0])
            assert world.claim(*waiting[1:]) == []  # its worker has not ended the job yet
            world.finish(waiting[0], Outcome.CANCELED)
        case _:
            world.finish(waiting[0], Outcome.HANDED_BACK)

    assert world.claim(*waiting[1:]) == ["b-merge-1"]


def test_the_end_of_one_rings_for_the_next(world: World, waiting: list[str]) -> None:
    assert world.claim(*waiting) == waiting[:1]

    finished = world.finish(waiting[0])

    assert {item.key for item in finished.work.enqueue} == {"a", "b-merge-1"}


def test_many_who_claim_at_once_get_one(world: World) -> None:
    keys = [f"t{n}" for n in range(8)]
    world.submit(*keys)
    ids = [world.ids[key] for key in in_conflict(world, keys)]
    workers = [world.register(new_id()) for _ in range(4)]
    start = threading.Barrier(len(workers))

    def race(worker: str) -> list[tuple[str, int]]:
        start.wait()
        return claimed_in_batches(world.store, world.workspace, worker, ids)

    with ThreadPoolExecutor(len(workers)) as pool:
        got = [pair for result in pool.map(race, workers) for pair in result]

    assert len(got) == 1


def test_those_of_another_run_and_all_else_do_not_wait(world: World, waiting: list[str]) -> None:
    world.claim(waiting[0])
    world.submit("x", "y", "z")
    (other,) = in_conflict(world, "x")

    assert set(world.claim(other, "y", *waiting)) == {other, "y"}


def test_limits_of_the_project_hold_for_them_too(world: World) -> None:
    world.submit("a", "b", concurrency=Concurrency(project=1))
    (waiting,) = in_conflict(world, "a")
    world.claim("b")

    assert world.claim(waiting) == []


def test_where_to_store_the_limit_may_have_to_wait_they_are_left_for_another_claim(
    world: World, waiting: list[str]
) -> None:
    assert world.claim(*waiting, wait=False) == []
    assert world.claim(*waiting) == ["a-merge-1"]


def test_they_come_before_what_is_as_urgent_as_the_change(world: World) -> None:
    world.submit("a", "b", "c", tasks={"a": {"priority": 3}, "b": {"priority": 3}, "c": {"priority": 5}})
    (waiting,) = in_conflict(world, "a")
    ticked = world.tick(enqueue_again_after=timedelta(0))

    assert ticked is not None
    assert [item.key for item in ticked.ring] == ["c", waiting, "b"]


def test_one_that_waits_says_for_which(world: World, waiting: list[str]) -> None:
    world.claim(waiting[0])
    with world.store.read() as tx:
        explanation = explain_task(tx, world.workspace, world.task(waiting[1]), live_within=timedelta(minutes=1))

    blockers = [(blocker.kind, blocker.detail) for blocker in explanation.blockers if blocker.kind != "no_worker"]
    branch = run_branch(world.run_id)
    assert blockers == [("merge", f"waits for its turn to merge to {branch}: now it is a-merge-1")]
    assert explanation.verdict == "queued, but cannot start"


class TestTheLimit:
    def test_it_goes_when_its_run_has_ended(self, world: World, waiting: list[str]) -> None:
        limit = f"key:{merge_key(world.run_id)}"
        for key in waiting:
            world.do(key)
            world.tick()
            assert world.used() == {limit: 0}
        world.do("a", "b", "c")

        world.tick()

        assert world.used() == {}

    def test_it_stays_while_a_worker_has_not_ended_a_job_of_a_run_that_was_canceled(
        self, world: World, waiting: list[str]
    ) -> None:
        world.claim(waiting[0])
        world.cancel_run(world.run_id)

        world.tick()

        assert world.used() == {f"key:{merge_key(world.run_id)}": 1}

    def test_others_of_the_project_stay(self, world: World) -> None:
        keyed = {"a": {"concurrency_key": "db"}}
        world.submit("a", "b", concurrency=Concurrency(keys={"merge": 2}), tasks=keyed)
        world.do(*in_conflict(world, "b"), "a", "b")

        world.tick()

        assert world.used() == {"key:db": 0, "key:merge": 0}

    def test_it_is_there_again_for_what_a_person_retries(self, world: World, waiting: list[str]) -> None:
        world.fail(*waiting)
        world.tick()
        assert world.used() == {}

        for key in waiting:
            world.retry(key)

        assert world.claim(*waiting) == ["a-merge-1"]


def test_what_a_conflict_task_finds_is_no_conflict_task(world: World, waiting: list[str]) -> None:
    world.claim(waiting[0])
    more = DiscoveredTask({"key": "more", "run": {"agent": "claude", "prompt": "Do more"}})

    world.finish(waiting[0], discovered=(more,))

    with world.store.write() as tx:
        result = tasks.lock_by_key(tx, world.workspace, world.run_id, ["more"])["more"]
    assert result.options["checkout"] == {"kind": "git-worktree"}
