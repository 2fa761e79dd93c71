"""Pairs of transactions on the same rows: the rows before them, and each actor's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import DBAPIError

from coordination.domain.plans.plans import Concurrency, Defaults
from coordination.domain.tasks.attempts import Outcome, Usage
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import OnDependencyFailure
from coordination.flows.attempts.finish import DispatchTerms
from coordination.flows.plans.submit_plan import submit_plan
from coordination.flows.projects.change_project import pause_project, resume_project
from coordination.flows.tasks.cancel_work import cancel_run, cancel_task
from coordination.flows.tasks.claim_tasks import claim_tasks
from coordination.flows.tasks.retry_tasks import retry_task
from coordination.services.attempts.end import close_runs
from coordination.services.attempts.rescue import rescue_expired
from coordination.store.engine import Store, is_transient
from coordination.store.queries.fleet import workers
from tests.support.finishing import finish_all
from tests.support.ticks import tick_supervisor
from tests.support.world import LEASE, WINDOW, World, plan_of

_LONG = Defaults(backoff=Backoff(initial=timedelta(hours=1), maximum=timedelta(hours=1)))

Work = Callable[[World, Store], Any]


@dataclass(frozen=True, slots=True)
class Scene:
    """The rows before, and the actors; the store is an actor's own, the world is shared."""

    prepare: Callable[[World], None]
    actors: Mapping[str, Work]
    closes_at_once: bool = False  # the end of the run may not be left to the next tick


def graph(*lines: str, **settings: Any) -> Callable[[World], None]:
    """Submit a run of these tasks, and then set some of them ``claimed``, ``failed``, ``canceled`` or ``expired``."""
    happened = {name: settings.pop(name, "").split() for name in ("claimed", "failed", "canceled", "done", "expired")}
    policy = OnDependencyFailure(settings.pop("policy", "cancel"))
    more = settings.pop("tasks", {})
    keys = [line.partition("<")[0].strip() for line in lines]

    def prepare(world: World) -> None:
        tasks = {key: {"on_dependency_failure": policy, **more.get(key, {})} for key in keys}
        world.submit(*lines, name="first", defaults=_LONG, tasks=tasks, **settings)
        for key in happened["claimed"]:
            assert world.claim(key) == [key]
        world.fail(*happened["failed"])
        world.do(*happened["done"])
        for key in happened["canceled"]:
            world.cancel(key)
        world.expire(*happened["expired"])

    return prepare


def claim(*keys: str) -> Work:
    """Claim as a worker, and return the claimed keys."""

    def work(world: World, store: Store) -> list[str]:
        ids = [world.ids[key] for key in keys]
        got = store.transact(
            lambda tx: claim_tasks(tx, world.workspace, ids, worker_id=world.worker, lease=LEASE), patience=LEASE
        )
        return [claim.key for claim in got]

    return work


def finish(key: str, outcome: Outcome = Outcome.COMPLETED, **fields: Any) -> Work:
    """Report an end as the worker that claimed first, and check again where the end of a run may have been missed."""

    def work(world: World, store: Store) -> bool:
        done = world.decide(key, outcome, usage=(Usage("m", id=f"spent-{key}"),), **fields)
        terms = DispatchTerms(WINDOW, lambda _kind: 1)
        ended = store.transact(
            lambda tx: finish_all(tx, world.workspace, [done], worker_id=world.worker, terms=terms), patience=LEASE
        ).effects
        if ended.maybe_done_runs:
            store.transact(lambda tx: close_runs(tx, world.workspace, ended.maybe_done_runs), patience=LEASE)
        return world.ids[key] in ended.moved_tasks

    return work


def fail(key: str) -> Work:
    """Report a failure that no retry can fix, as the worker."""
    return finish(key, Outcome.FAILED, error="no", retryable=False)


def _in_one(act: Callable[[Any, World], Any]) -> Work:
    return lambda world, store: store.transact(lambda tx: act(tx, world), patience=LEASE)


def cancel(key: str) -> Work:
    """Cancel a task as a person, and return how many tasks that ended."""
    return _in_one(
        lambda tx, world: len(cancel_task(tx, world.workspace, world.ids[key], actor="ann", why="enough").tasks)
    )


def cancel_all() -> Work:
    """Cancel the run as a person, without a result, which depends on what ended by itself."""
    return _in_one(lambda tx, world: cancel_run(tx, world.workspace, world.run_id, actor="ann", why="enough") and None)


def retry(key: str) -> Work:
    """Retry a task as a person, and return how many were reopened, or the refusal."""
    return _in_one(lambda tx, world: len(retry_task(tx, world.workspace, world.ids[key], actor="ann")))


def rescue() -> Work:
    """Recover expired attempts as the supervisor, and return how many fences were still valid."""
    return _in_one(lambda tx, world: len(rescue_expired(tx, world.workspace, world.project_id).moved_tasks))


def renew(key: str) -> Work:
    """Renew the lease as the heartbeat, and return the state, or None when the attempt was taken away."""

    def act(tx: Any, world: World) -> str | None:
        result = workers.renew(tx, world.worker, [(world.ids[key], world.claims[key].attempt)], ttl=LEASE)
        return result[0].state if result else None

    return _in_one(act)


def hold() -> Work:
    """Pause the project as a person."""
    return _in_one(lambda tx, world: pause_project(tx, world.workspace, world.project_id))


def resume() -> Work:
    """Resume the project as a person; how many tasks that releases depends on the order."""
    return _in_one(lambda tx, world: resume_project(tx, world.workspace, world.project_id, actor="ann") and None)


def submit(*lines: str) -> Work:
    """Submit another plan."""
    plan = plan_of(*lines, name="second", defaults=_LONG)

    def act(tx: Any, world: World) -> None:
        world.ids |= submit_plan(tx, world.workspace, plan, world.origin()).task_ids

    return _in_one(act)


def tick(owner: str) -> Work:
    """Tick the supervisor, again after a deadlock."""

    def work(world: World, store: Store) -> None:
        for _ in range(3):
            try:
                tick_supervisor(store, world.workspace, world.project_id, owner=owner, window=WINDOW)
            except DBAPIError as error:
                if not is_transient(error):
                    raise
            else:
                return

    return work


def _held(world: World) -> None:
    graph("a", "b")(world)
    world.store.transact(lambda tx: pause_project(tx, world.workspace, world.project_id))


def _unknown(world: World) -> None:
    graph("a", claimed="a", tasks={"a": {"repeatable": False}})(world)
    world.finish("a", Outcome.LOST)


def _retried(world: World) -> None:
    """Retry a task that was canceled while it ran: the job of the first attempt has not ended yet."""
    graph("a", claimed="a", canceled="a")(world)
    world.retry("a")


_ONE_AT_A_TIME = {"concurrency": Concurrency(project=1)}

SCENES: Mapping[str, Scene] = {
    "two claims of one task": Scene(graph("a"), {"one": claim("a"), "two": claim("a")}),
    "two claims of several tasks": Scene(graph("a", "b", "c"), {"one": claim("a", "b"), "two": claim("c", "b")}),
    "claims for the last slot": Scene(graph("a", "b", **_ONE_AT_A_TIME), {"one": claim("a"), "two": claim("b")}),
    "a slot given back and taken": Scene(
        graph("a", "b", claimed="a", **_ONE_AT_A_TIME), {"finish": finish("a"), "claim": claim("b")}
    ),
    "finish and cancel": Scene(graph("a", "b < a", claimed="a"), {"finish": finish("a"), "cancel": cancel("a")}),
    "finish and cancel of a dependant": Scene(
        graph("a", "b < a", "c < b", claimed="a"), {"finish": finish("a"), "cancel": cancel("b")}
    ),
    "finish and rescue": Scene(
        graph("a", "b < a", claimed="a", expired="a", **_ONE_AT_A_TIME), {"finish": finish("a"), "rescue": rescue()}
    ),
    "renewal and rescue": Scene(graph("a", claimed="a", expired="a"), {"renew": renew("a"), "rescue": rescue()}),
    "renewal and cancel": Scene(graph("a", claimed="a"), {"renew": renew("a"), "cancel": cancel("a")}),
    "the last two parents of a child": Scene(
        graph("a", "b", "c < a b", claimed="a b"), {"one": finish("a"), "two": finish("b")}
    ),
    "the last two parents of two children": Scene(
        graph("a", "b", "c < a b", "d < b a", claimed="a b"), {"one": finish("a"), "two": finish("b")}
    ),
    "a good and a bad end above a child": Scene(
        graph("a", "b", "c < a b", "d < c", claimed="a b"), {"good": finish("a"), "bad": fail("b")}
    ),
    "two bad ends above a child that runs anyway": Scene(
        graph("a", "b", "c < a b", claimed="a b", policy="run"), {"one": fail("a"), "two": fail("b")}
    ),
    "the last two tasks of a run": Scene(graph("a", "b", claimed="a b"), {"one": finish("a"), "two": fail("b")}, True),
    "the last two tasks of a run, one canceled": Scene(
        graph("a", "b", claimed="a"), {"finish": finish("a"), "cancel": cancel("b")}
    ),
    "claim and cancel": Scene(graph("a", "b < a"), {"claim": claim("a"), "cancel": cancel("a")}),
    "claim and hold": Scene(graph("a", "b"), {"claim": claim("a", "b"), "hold": hold()}),
    "claim and resume": Scene(_held, {"claim": claim("a"), "resume": resume()}),
    "cancels of graphs that overlap": Scene(
        graph("a", "b", "c < a b", "d < c", "e < b"), {"one": cancel("a"), "two": cancel("b")}
    ),
    "cancel of a run and of its task": Scene(
        graph("a", "b < a", "c < b", claimed="a"), {"run": cancel_all(), "task": cancel("b")}
    ),
    "retry of a child and finish of its parent": Scene(
        graph("a", "b < a", claimed="a", canceled="b"), {"retry": retry("b"), "finish": finish("a")}
    ),
    "retry of children and finish of their parent": Scene(
        graph("a", "b < a", "c < a", claimed="a", canceled="b c"), {"retry": retry("b"), "finish": finish("a")}
    ),
    "retry of one parent and the other's bad end": Scene(
        graph("a", "b", "c < a b", claimed="b", failed="a"), {"retry": retry("a"), "bad": fail("b")}
    ),
    "retry and the end of the canceled attempt": Scene(
        graph("a", claimed="a", canceled="a"), {"retry": retry("a"), "finish": finish("a")}
    ),
    "claim of a retried task and the end before": Scene(_retried, {"claim": claim("a"), "finish": finish("a")}),
    "retry and the end of the run": Scene(
        graph("a", "b", claimed="b", failed="a"), {"retry": retry("a"), "finish": finish("b")}
    ),
    "two retries of one task": Scene(graph("a", "b < a", failed="a"), {"one": retry("a"), "two": retry("a")}),
    "two retries of an unknown outcome": Scene(_unknown, {"one": retry("a"), "two": retry("a")}),
    "retry and cancel of an unknown outcome": Scene(_unknown, {"retry": retry("a"), "cancel": cancel("a")}),
    "finish and tick": Scene(
        graph("a", "b < a", claimed="a", expired="a"), {"finish": finish("a"), "tick": tick("one")}
    ),
    "two ticks": Scene(graph("a", "b", claimed="a", expired="a"), {"one": tick("one"), "two": tick("two")}),
    "submit and the tick that ends the supervisor": Scene(
        graph("a", done="a"), {"submit": submit("x", "y < x"), "tick": tick("one")}
    ),
    "retry and the tick that ends the supervisor": Scene(
        graph("a", failed="a"), {"retry": retry("a"), "tick": tick("one")}
    ),
}

THREE: Mapping[str, Scene] = {
    "finish, cancel and rescue": Scene(
        graph("a", "b < a", claimed="a", expired="a"),
        {"cancel": cancel("a"), "finish": finish("a"), "rescue": rescue()},
    ),
    "three claims for two slots": Scene(
        graph("a", "b", "c", concurrency=Concurrency(project=2)),
        {"one": claim("a"), "three": claim("c"), "two": claim("b")},
    ),
    "three last parents": Scene(
        graph("a", "b", "c", "d < a b c", claimed="a b c"),
        {"one": finish("a"), "three": finish("c"), "two": fail("b")},
    ),
    "cancel, retry and finish": Scene(
        graph("a", "b < a", "c < a", claimed="a", canceled="b"),
        {"cancel": cancel("c"), "finish": finish("a"), "retry": retry("b")},
    ),
}
