"""Test claims: each task goes to one worker, limits are never passed, and what is refused waits in SQL again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from coordination.base.ids import new_id
from coordination.domain.plans.plans import Concurrency
from coordination.domain.projects.projects import ProjectStatus
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.projects.change_project import pause_project, resume_project
from coordination.store.queries.tasks import slots
from coordination.store.tables.tasks.events import event_log
from tests.support.races import claimed_in_batches
from tests.support.speed import patience
from tests.support.world import World

pytestmark = pytest.mark.hot_sql

ROOT = Path(__file__).resolve().parents[2]


def test_a_claim_raises_the_fence_and_hands_over_what_the_job_needs(world: World) -> None:
    world.submit("a", tasks={"a": {"input": {"x": 1}, "agent": "bo", "workdir": "/srv/other"}}, python_path=["/srv"])

    assert world.claim("a") == ["a"]

    claim = world.claims["a"]
    assert (claim.attempt, claim.input, claim.agent, claim.workdir) == (1, {"x": 1}, "bo", "/srv/other")
    assert (claim.python_path, claim.work, claim.project) == (("/srv",), {"shell": "true"}, "shop")
    (attempt,) = world.attempts("a")
    assert attempt.number == 1
    assert attempt.lease_until > attempt.started_at
    assert attempt.progress_at is None
    assert world.claim("a") == []


def test_claims_of_one_statement_keep_what_is_theirs(world: World) -> None:
    """Share equal texts, which are parsed once, but no other values that only compare as equal."""
    works: list[dict[str, Any]] = [{"python": "m:f", "args": {"x": value}} for value in (1, True, 1.0, "1", None)]
    world.submit(*"abcde", tasks={key: {"run": work} for key, work in zip("abcde", works, strict=True)})

    world.claim(*"abcde")

    assert [json.dumps(world.claims[key].work["args"]["x"]) for key in "abcde"] == ["1", "true", "1.0", '"1"', "null"]
    assert [world.claims[key].needs for key in "abcde"] == [{}] * 5


def test_what_is_unknown_or_not_due_or_of_another_workspace_is_not_claimed(world: World) -> None:
    world.submit("a")
    other = World(world.store, "other")
    other.ids = dict(world.ids)
    world.ids["ghost"] = new_id()

    assert world.claim("ghost") == []
    assert other.claim("a") == []
    world.sql("UPDATE tasks SET not_before = :then", then=_in_an_hour(world))
    assert world.claim("a") == []
    assert world.states(["a"]) == {"a": "queued"}


def _in_an_hour(world: World):
    from datetime import UTC, datetime, timedelta

    from coordination.store.types import iso

    then = datetime.now(UTC) + timedelta(hours=1)
    return iso(then) if world.store.dialect == "sqlite" else then


def test_eight_threads_claim_two_hundred_tasks_exactly_once(world: World) -> None:
    submitted = world.submit(*[f"t{n}" for n in range(200)])
    ids = list(submitted.task_ids.values())
    workers = [world.register(new_id()) for _ in range(8)]
    start = threading.Barrier(len(workers))

    def race(worker: str):
        start.wait()
        return claimed_in_batches(world.store, world.workspace, worker, ids)

    with ThreadPoolExecutor(len(workers)) as pool:
        got = [pair for result in pool.map(race, workers) for pair in result]

    assert Counter(got) == Counter((task_id, 1) for task_id in ids)
    assert {len(world.attempts(key)) for key in list(world.ids)[::40]} == {1}


def test_four_processes_claim_the_same_tasks_exactly_once(world: World, store_url: str) -> None:
    ids = list(world.submit(*[f"t{n}" for n in range(120)]).task_ids.values())
    command = [sys.executable, "-m", "tests.flows.claimer", store_url, world.workspace]
    racers = [
        subprocess.Popen(
            [*command, world.register(new_id())],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"

    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(json.dumps(ids) + "\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=patience(30))[0] for racer in racers]

    got = [tuple(pair) for output in outputs for pair in json.loads(output)]
    assert sorted(got) == sorted((task_id, 1) for task_id in ids)
    assert {racer.returncode for racer in racers} == {0}


def test_a_batch_takes_the_best_first(world: World) -> None:
    world.submit("low", "old", "high", "new", tasks={"low": {"priority": -1}, "high": {"priority": 5}})

    assert world.claim("new", "old", "low", "high") == ["high", "old", "new", "low"]


def refuse_overuse(world: World) -> None:
    """Let the database refuse every commit that passes a cap."""
    if world.store.dialect == "sqlite":
        world.sql(
            "CREATE TRIGGER no_overuse BEFORE UPDATE ON slots WHEN NEW.used > NEW.cap "
            "BEGIN SELECT RAISE(ABORT, 'cap passed'); END"
        )
    else:
        world.sql("ALTER TABLE slots ADD CONSTRAINT no_overuse CHECK (used <= cap)")


@pytest.mark.own_database
def test_no_number_of_claimers_passes_a_cap(world: World) -> None:
    keys = [f"t{n}" for n in range(40)]
    world.submit(
        *keys,
        concurrency=Concurrency(project=3, agents={"bo": 2}),
        tasks={key: {"concurrency_key": "deploy"} if n % 4 == 0 else {"agent": "bo"} for n, key in enumerate(keys)},
    )
    refuse_overuse(world)
    left = set(keys)
    most: list[int] = []
    deadline = time.monotonic() + 30

    def race(worker: str) -> None:
        while left and time.monotonic() < deadline:
            for key in sorted(left):
                mine = World.__new__(World)
                mine.__dict__ |= {**world.__dict__, "claims": {}, "worker": worker}
                for claimed in mine.claim(key):
                    most.append(len(_running(world)))
                    mine.finish(claimed)
                    left.discard(claimed)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(race, [world.register(new_id()) for _ in range(4)]))

    assert set(world.states().values()) == {"completed"}
    assert max(most) <= 3
    assert set(world.used().values()) == {0}
    assert _most_at_once(world) <= 3
    assert _most_at_once(world, {world.ids[key] for key in keys[::4]}) == 1


def _running(world: World) -> list[str]:
    return [key for key, state in world.states().items() if state == "running"]


def _most_at_once(world: World, only: set[str] | None = None) -> int:
    """Return, from the event log, the greatest number of tasks between their claim and their end."""
    with world.store.read() as tx:
        rows = tx.execute(select(event_log.c.task_id, event_log.c.type).order_by(event_log.c.seq)).all()
    now = most = 0
    for task_id, kind in rows:
        if only is None or task_id in only:
            now += (kind == "claimed") - (kind == "completed")
            most = max(most, now)
    return most


def test_a_full_slot_leaves_the_task_queued_and_waiting_in_sql(world: World) -> None:
    world.submit("a", "b", tasks={key: {"concurrency_key": "deploy"} for key in "ab"})
    world.tick()
    world.claim("a")

    assert world.claim("b") == []

    assert world.states() == {"a": "running", "b": "queued"}
    assert world.sql("SELECT enqueued_at FROM tasks WHERE key = 'b'") == [(None,)]
    assert [ready.key for ready in world.tick().ring] == []
    finished = world.finish("a")
    assert [ready.key for ready in finished.work.enqueue] == ["b"]


@pytest.mark.parametrize("end", ["complete", "fail", "retry", "expire", "worker", "cancel"])
def test_every_way_out_gives_the_places_back(world: World, end: str) -> None:
    world.submit("a", concurrency=Concurrency(project=3), tasks={"a": {"concurrency_key": "deploy", "max_attempts": 3}})
    world.claim("a")
    assert world.used() == {"project": 1, "key:deploy": 1}

    match end:
        case "complete":
            world.finish("a")
        case "fail":
            world.finish("a", Outcome.FAILED, retryable=False)
        case "retry":
            world.finish("a", Outcome.FAILED)
        case "expire":
            world.expire("a")
            world.tick()
        case "worker":
            world.store.transact(lambda tx: rescue_worker(tx, world.worker))
        case "cancel":
            world.cancel("a")
            assert world.used() == {"project": 1, "key:deploy": 1}, "its job still runs"
            world.finish("a", Outcome.CANCELED)

    assert world.used() == {"project": 0, "key:deploy": 0}
    world.finish("a")  # late, or again
    assert world.used() == {"project": 0, "key:deploy": 0}


def test_the_healer_sets_counters_to_what_is_really_held(world: World) -> None:
    world.submit("a", concurrency=Concurrency(project=3, keys={"x": 2}), tasks={"a": {"concurrency_key": "x"}})
    world.claim("a")
    world.sql("UPDATE slots SET used = 2 WHERE name = 'project'")

    with world.store.write() as tx:
        assert slots.recount(tx, world.workspace, world.project_id) == ["project"]

    assert world.used() == {"project": 1, "key:x": 1}
    assert world.tick().healed == []


@pytest.mark.parametrize("status", [ProjectStatus.ON_HOLD, ProjectStatus.ARCHIVED])
def test_a_paused_project_blocks_what_a_claim_meets(world: World, status: ProjectStatus) -> None:
    world.submit("a", "b < a")
    world.sql("UPDATE projects SET status = :status", status=status.value)

    assert world.claim("a") == []

    assert world.states() == {"a": "blocked", "b": "blocked"}
    assert world.task("a").reasons == BlockReason.PAUSED
    assert world.story("a")[-1] == "blocked"
    assert world.store.transact(lambda tx: resume_project(tx, world.workspace, world.project_id, actor="ann")) == 1
    assert world.states() == {"a": "queued", "b": "blocked"}
    assert world.story("a")[-1] == "unblocked"
    world.do("a", "b")


def test_what_runs_goes_on_while_its_project_is_on_hold(world: World) -> None:
    world.submit("a", "b < a")
    world.claim("a")
    world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))

    world.finish("a")

    assert world.states()["a"] == "completed"
    assert world.claim("b") == []
    assert world.task("b").reasons == BlockReason.PAUSED
