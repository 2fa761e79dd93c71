"""Test what an explanation names: limits with their users, back-off, a pause, a later start time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coordination.base.ids import new_id
from coordination.domain.plans.plans import Concurrency, Plan, Task
from coordination.domain.tasks.explanations import TaskBlocker, TaskExplanation
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.plans.submit_plan import PlanOrigin, SubmittedRun, submit_plan
from coordination.flows.projects.change_project import pause_project
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.flows.tasks.explain_task import explain_task
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import tasks

LIVE = timedelta(seconds=30)


@pytest.fixture
def ws(store: Store) -> str:
    return store.transact(lambda tx: projects.get_or_create_workspace(tx, "default"))


def submitted(store: Store, ws: str, plan: Plan) -> SubmittedRun:
    origin = PlanOrigin(identity="example.org/acme/shop", name="shop", creator="user:me")
    return store.transact(lambda tx: submit_plan(tx, ws, plan, origin))


def a_worker(store: Store, slots: int = 4) -> str:
    worker = new_id()
    row = {"id": worker, "name": "w", "host": "h", "boot_id": "b", "pid": 1, "slots": slots, "version": "0"}
    store.transact(lambda tx: workers.register(tx, row))
    return worker


def explained(store: Store, ws: str, task_id: str) -> TaskExplanation:
    with store.read() as tx:
        task = tasks.get(tx, ws, task_id)
        assert task is not None
        return explain_task(tx, ws, task, live_within=LIVE)


def held_by(store: Store, ws: str, task_id: str) -> list[TaskBlocker]:
    return list(explained(store, ws, task_id).blockers)


def verdict(store: Store, ws: str, task_id: str) -> str:
    return explained(store, ws, task_id).verdict


def test_a_suspect_is_said_to_run_alone_and_why(store: Store, ws: str) -> None:
    worker, another = a_worker(store), a_worker(store)
    task_id = submitted(store, ws, Plan([Task("a", {"shell": "true"})])).task_ids["a"]
    store.transact(lambda tx: claim_tasks(tx, ws, [task_id], worker_id=worker, lease=LIVE))
    store.transact(lambda tx: rescue_worker(tx, worker, started=frozenset({(task_id, 1)})))

    waiting = verdict(store, ws, task_id)
    store.transact(lambda tx: claim_tasks(tx, ws, [task_id], worker_id=another, lease=LIVE))

    alone = "alone in its own process, because a worker died while it ran"
    assert waiting == f"ready: the next idle worker runs it, {alone}"
    assert verdict(store, ws, task_id).endswith(f"attempt 2 on w, {alone}")


def test_a_full_limit_is_named_with_who_uses_it(store: Store, ws: str) -> None:
    worker = a_worker(store)
    deploys = [Task(key, {"shell": "true"}, concurrency_key="deploy") for key in ("first", "second")]
    done = submitted(store, ws, Plan(deploys, concurrency=Concurrency(keys={"deploy": 1})))
    store.transact(lambda tx: claim_tasks(tx, ws, [done.task_ids["first"]], worker_id=worker, lease=LIVE))

    (blocker,) = held_by(store, ws, done.task_ids["second"])

    assert blocker.kind == "slot"
    assert blocker.detail == "the limit key:deploy is reached: 1/1 used by first"
    assert held_by(store, ws, done.task_ids["first"]) == []


def test_a_fleet_without_a_free_place_is_named(store: Store, ws: str) -> None:
    worker = a_worker(store, slots=1)
    done = submitted(store, ws, Plan([Task("a", {"shell": "true"}), Task("b", {"shell": "true"})]))
    store.transact(lambda tx: claim_tasks(tx, ws, [done.task_ids["a"]], worker_id=worker, lease=LIVE))

    assert [blocker.kind for blocker in held_by(store, ws, done.task_ids["b"])] == ["busy"]


def test_a_time_that_has_not_come_and_a_held_project_are_named(store: Store, ws: str) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    done = submitted(
        store, ws, Plan([Task("a", {"shell": "true"}, not_before=later), Task("b", {"shell": "x"}, needs=["a"])])
    )
    store.transact(lambda tx: pause_project(tx, ws, done.project_id))

    explanation = held_by(store, ws, done.task_ids["b"])

    assert [(blocker.kind, blocker.via) for blocker in explanation] == [
        ("dependency", ()),
        ("not_before", ("a",)),
        ("on_hold", ()),
    ]
    assert "2100-01-01 00:00:00 UTC" in explanation[1].line()


def test_a_back_off_is_named_with_its_end_and_its_cause(store: Store, ws: str) -> None:
    worker = a_worker(store)
    done = submitted(store, ws, Plan([Task("a", {"shell": "true"})]))
    task_id = done.task_ids["a"]
    store.transact(lambda tx: claim_tasks(tx, ws, [task_id], worker_id=worker, lease=LIVE))
    store.transact(
        lambda tx: tasks.queue_again(
            tx,
            ws,
            task_id,
            attempt=1,
            wait=timedelta(hours=1),
            counts=tasks.CounterChanges(failures=1),
            error="exit status 1",
        )
    )

    (blocker,) = held_by(store, ws, task_id)

    assert blocker.kind == "back_off"
    assert blocker.until is not None
    assert "exit status 1" in blocker.detail
