"""Test retries: back-off, deferral, lost workers, jobs that must not be repeated, and a person's retry."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial

import pytest

from coordination.base.errors import IllegalMove, NotFound
from coordination.base.ids import new_id
from coordination.domain.fleet.leases import MAX_DEFERRALS, MAX_LOSSES
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import BlockReason, OnDependencyFailure
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.tasks.retry_tasks import retry_run, retry_task
from coordination.store.engine import open_store
from coordination.store.queries.tasks import runs
from tests.support.refusals import refuses
from tests.support.world import World


def test_a_failed_attempt_waits_and_is_tried_again_until_its_attempts_are_used_up(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 3, "backoff": Backoff(initial=timedelta(seconds=10))}})

    waits = []
    for number in (1, 2):
        world.claim("a")
        finished = world.finish("a", Outcome.FAILED, error=f"no {number}")
        waits.append(finished.effects.retry_in[world.ids["a"]].total_seconds())
        assert world.claim("a") == [], "its wait is not over"
        assert world.task("a").error == f"no {number}"
        world.make_due("a")
    world.claim("a")
    world.finish("a", Outcome.TIMED_OUT, error="too slow")

    assert 10 <= waits[0] <= 12.5
    assert 20 <= waits[1] <= 25
    assert (world.task("a").state, world.task("a").failures, world.task("a").attempt) == ("failed", 3, 3)
    assert world.outcomes("a") == ["failed", "failed", "timed_out"]


def test_what_no_retry_can_mend_fails_at_once(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 5}})

    world.do("a", outcome=Outcome.FAILED, retryable=False)

    assert world.states() == {"a": "failed"}


def test_a_deferral_is_no_failure_but_after_many_a_person_must_let_it_go_on(world: World) -> None:
    world.submit("a")
    for _ in range(2):
        world.do("a", outcome=Outcome.DEFERRED)
        assert world.states() == {"a": "queued"}
        world.make_due("a")
    assert (world.task("a").failures, world.task("a").deferrals) == (0, 2)
    world.sql("UPDATE tasks SET deferrals = :n", n=MAX_DEFERRALS - 1)

    world.do("a", outcome=Outcome.DEFERRED)

    assert world.task("a").reasons == BlockReason.LIMIT
    assert world.story("a")[-1] == "blocked"
    assert world.claim("a") == []
    assert world.retry("a") == {"a"}
    assert (world.task("a").deferrals, world.task("a").deferred_since) == (0, None)
    world.do("a")
    assert world.states() == {"a": "completed"}


def test_three_workers_lost_alone_end_a_job_that_kills_them(world: World) -> None:
    world.submit("a", "b < a", tasks={"a": {"max_attempts": 9}})

    for loss in range(2 + MAX_LOSSES):
        world.claim("a")
        started = frozenset({(world.ids["a"], loss + 1)} if loss else ())
        lost = partial(rescue_worker, worker_id=world.worker, started=started, alone=loss > 1)
        world.store.transact(lost)
        assert world.task("a").losses == loss

    assert world.states() == {"a": "failed", "b": "canceled"}
    assert world.task("a").failures == 0
    assert world.outcomes("a") == ["lost"] * 5


def test_a_lease_that_ran_out_is_charged_nothing_however_often(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 1}})

    for _ in range(2 * MAX_LOSSES):
        world.claim("a")
        world.expire("a")
        world.tick()

    task = world.task("a")
    assert (task.state, task.failures, task.losses) == ("queued", 0, 0)


def test_a_requeue_of_one_kind_resets_no_count_of_the_other(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 2}})
    world.do("a", outcome=Outcome.FAILED)
    world.make_due("a")
    world.claim("a")
    world.store.transact(partial(rescue_worker, worker_id=world.worker, started=frozenset({(world.ids["a"], 2)})))
    world.do("a", outcome=Outcome.HANDED_BACK)

    assert (world.task("a").losses, world.task("a").failures, world.task("a").attempt) == (1, 1, 3)
    world.do("a", outcome=Outcome.FAILED)
    assert world.states() == {"a": "failed"}


def test_a_job_handed_back_is_charged_nothing_and_may_start_at_once(world: World) -> None:
    world.submit("a")

    world.do("a", outcome=Outcome.HANDED_BACK)

    task = world.task("a")
    assert (task.state, task.failures, task.losses, task.deferrals) == ("queued", 0, 0, 0)
    assert world.story("a")[-1] == "handed_back"
    assert world.claim("a") == ["a"]


def test_a_job_that_must_not_be_repeated_waits_for_a_person_when_its_worker_is_lost(world: World) -> None:
    world.submit("a", "b < a", tasks={"a": {"repeatable": False}})
    world.claim("a")
    world.expire("a")

    world.tick()

    assert world.task("a").reasons == BlockReason.OUTCOME_UNKNOWN
    assert world.states() == {"a": "blocked", "b": "blocked"}
    assert world.claim("a") == []
    assert world.retry("a") == {"a"}
    world.do("a", "b")
    assert set(world.states().values()) == {"completed"}


def test_an_unknown_outcome_can_also_be_given_up(world: World) -> None:
    world.submit("a", "b < a", tasks={"a": {"repeatable": False}})
    world.claim("a")
    world.expire("a")
    world.tick()

    world.cancel("a")

    assert world.states() == {"a": "canceled", "b": "canceled"}


def test_a_retry_revives_what_was_canceled_because_of_it_and_nothing_else(world: World) -> None:
    world.submit("a", "b < a", "c < b", "mine < a", "other", "d < b other")
    world.cancel("mine")
    world.fail("a")
    assert set(world.states(["b", "c", "d"]).values()) == {"canceled"}

    assert world.retry("a") == {"a", "b", "c", "d"}

    assert world.states() == {
        "a": "queued",
        "b": "blocked",
        "c": "blocked",
        "d": "blocked",
        "mine": "canceled",
        "other": "queued",
    }
    assert world.task("d").pending == 2
    world.do("a", "b", "c", "other", "d")
    assert world.states()["d"] == "completed"


def test_a_retry_starts_with_fresh_counts_but_a_higher_fence(world: World) -> None:
    world.submit("a")
    world.fail("a")
    with world.store.read() as tx:
        assert runs.get(tx, world.workspace, world.run_id).finished_at is not None

    world.retry("a")

    task = world.task("a")
    assert (task.state, task.failures, task.attempt, task.error, task.finished_at) == ("queued", 0, 1, None, None)
    with world.store.read() as tx:
        assert runs.get(tx, world.workspace, world.run_id).finished_at is None
    world.do("a")
    assert world.outcomes("a") == ["failed", "completed"]
    with world.store.read() as tx:
        assert runs.get(tx, world.workspace, world.run_id).state == "completed"


def test_a_blocked_child_goes_on_when_the_failed_parent_is_retried(world: World) -> None:
    world.submit("a", "b < a", tasks={"b": {"on_dependency_failure": OnDependencyFailure.BLOCK}})
    world.fail("a")

    world.retry("a")

    world.do("a", "b")


def test_only_what_ended_without_success_can_be_retried(world: World) -> None:
    world.submit("a", "b")
    world.do("a")

    again = "Run it again: coord tasks force a queued --reason 'once more'"
    for key, state, hint in (("a", "completed", again), ("b", "queued", "See: coord explain b")):
        with refuses(IllegalMove) as refused:
            world.retry(key)
        assert refused.value.state == state
        assert refused.value.hint == hint
    world.ids["ghost"] = new_id()
    with refuses(NotFound):
        world.retry("ghost")


def test_a_run_is_retried_as_a_whole(world: World) -> None:
    world.submit("a", "b < a", "c", "d")
    world.fail("a")
    world.do("c")
    world.cancel("d")

    with world.store.write() as tx:
        reopened = retry_run(tx, world.workspace, world.run_id, actor="ann")

    assert len(reopened) == len(set(reopened)) == 3
    assert world.states() == {"a": "queued", "b": "blocked", "c": "completed", "d": "queued"}


def test_a_retry_wakes_the_supervisor_that_had_ended(world: World) -> None:
    world.submit("a")
    world.fail("a")
    assert world.tick().ended

    world.retry("a")

    assert [ready.key for ready in world.tick().ring] == ["a"]


def test_a_retry_while_the_run_is_being_closed_leaves_it_open(postgres_url: str) -> None:
    """Complete the last task in one transaction while a person retries a failed one in another."""
    world = World(open_store(postgres_url))
    world.submit("a", "b")
    world.fail("a")
    closer_waits = threading.Event()

    def close() -> None:
        with world.store.write() as tx:
            closer_waits.set()
            runs.close_if_done(tx, world.workspace, [world.run_id])

    world.claim("b")
    with world.store.write() as tx:
        tx.exec_driver_sql("UPDATE tasks SET state = 'completed', finished_at = now() WHERE key = 'b'")
    with world.store.write() as tx:
        retry_task(tx, world.workspace, world.ids["a"], actor="ann")
        thread = threading.Thread(target=close)
        thread.start()
        closer_waits.wait()
        _until_somebody_waits_for_a_lock(world)
    thread.join()

    with world.store.read() as tx:
        assert runs.get(tx, world.workspace, world.run_id).finished_at is None
    world.store.close()


def _until_somebody_waits_for_a_lock(world: World) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if world.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
            return
    pytest.fail("nobody waits")
