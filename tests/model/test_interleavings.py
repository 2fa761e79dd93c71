"""Test real transactions, stopped before every statement: in any order, the result is that of a serial execution."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from itertools import groupby, permutations
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from coordination.base.ids import new_id
from coordination.domain.money.budgets import Budget, BudgetScope
from coordination.store.engine import Store, open_store
from coordination.store.queries.money import budgets
from tests.model.picture import Picture, flaws, take
from tests.model.profiles import DEEP
from tests.model.scenes import SCENES, THREE, Scene
from tests.model.stepping import TO_THE_END, Actor, Played, Schedule, gates, play
from tests.support.traffic import refused_by_the_server
from tests.support.world import World

pytestmark = pytest.mark.timeout(3600 if DEEP else 300)

LONG = 20
RANDOM_SCHEDULES = 300 if DEEP else 1


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a scene: the return values, the rows, then the rows after one more tick."""

    answers: dict[str, Any]
    at_once: Picture
    settled: Picture


class Stage:
    """Plays scenes on one database, each in a workspace of its own."""

    def __init__(self, url: str) -> None:
        self.store = open_store(url)
        self.own: dict[str, Store] = {}

    def store_of(self, name: str) -> Store:
        """Return the store through which an actor works."""
        return self.store

    def close(self) -> None:
        for store in (self.store, *self.own.values()):
            store.close()

    def blocked(self, busy: Sequence[Actor], resting: Sequence[Actor]) -> bool:
        """Return whether all running actors wait for others' locks."""
        raise NotImplementedError

    def act(self, scene: Scene, schedule: Schedule) -> tuple[Result, Played]:
        """Set the scene up, play it, and return its result."""
        world = World(self.store, name=new_id())
        scene.prepare(world)
        works = {name: partial(work, world, self.store_of(name)) for name, work in scene.actors.items()}
        stores = {id(store): store for store in map(self.store_of, works)}
        with gates(*stores.values()):
            played = play(works, schedule, self.blocked)
        at_once = take(self.store, world.workspace)
        world.tick("afterwards")
        settled = take(self.store, world.workspace)
        story = "\n".join([str(schedule), *played.trace])
        # A run's end may be left to the next tick; nothing else may.
        wrong = [flaw for flaw in flaws(at_once) if "supervises" not in flaw] + flaws(settled)
        assert wrong == [], story
        seen = at_once.picture
        if not scene.closes_at_once:
            stories = {name: lines for name, lines in seen.stories.items() if name not in seen.runs}
            seen = replace(seen, runs={}, stories=stories, supervised=True)
        return Result(played.results, seen, settled.picture), played

    def serial(self, scene: Scene) -> tuple[list[Result], dict[str, int]]:
        """Return the results of all serial orders, and the greatest number of statements of each actor."""
        results, steps = [], dict.fromkeys(scene.actors, 0)
        for order in permutations(scene.actors):
            result, played = self.act(scene, [(name, TO_THE_END) for name in order])
            results.append(result)
            steps = {name: max(steps[name], played.steps[name]) for name in steps}
        return results, steps


class PostgresStage(Stage):
    """Uses PostgreSQL's own view of the waiting locks."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._watch = psycopg.connect(plain, autocommit=True)
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # a server that is not ours
            # Deadlocks are part of this test, and PostgreSQL's default wait of a second for each is long.
            self._watch.execute(f"ALTER DATABASE \"{make_url(url).database}\" SET deadlock_timeout = '30ms'")

    def close(self) -> None:
        self._watch.close()
        super().close()

    def blocked(self, busy: Sequence[Actor], resting: Sequence[Actor]) -> bool:
        pids = [actor.pid for actor in busy]
        waiting = self._watch.execute(
            "SELECT count(*) FROM unnest(%s::int[]) pid WHERE cardinality(pg_blocking_pids(pid)) > 0", [pids]
        ).fetchone()
        return waiting is not None and waiting[0] == len(pids)


class SqliteStage(Stage):
    """Gives each actor a store of its own, as a process has. SQLite does not show waiters; it has one lock."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._url = url

    def store_of(self, name: str) -> Store:
        return self.own.setdefault(name, open_store(self._url))

    def blocked(self, busy: Sequence[Actor], resting: Sequence[Actor]) -> bool:
        return all(actor.doing.startswith("BEGIN") for actor in busy) and any(actor.in_transaction for actor in resting)


@pytest.fixture
def stage(postgres_url: str) -> Iterator[Stage]:
    opened = PostgresStage(postgres_url)
    yield opened
    opened.close()


def one_switch(steps: dict[str, int]) -> Iterator[Schedule]:
    """Stop each actor once, at every place, and run the other to its end meanwhile."""
    for first, second in permutations(steps, 2):
        # A scene of many steps has several transactions: the short profile stops it at every third step.
        for before in range(1, steps[first], 1 if DEEP or steps[first] <= LONG else 3):
            yield [(first, before), (second, TO_THE_END)]


def two_switches(steps: dict[str, int]) -> Iterator[Schedule]:
    """Stop the first at every place, then the second at every place, then run the first to its end."""
    for first, second in permutations(steps, 2):
        for before in range(1, steps[first]):
            for then in range(1, steps[second]):
                yield [(first, before), (second, then), (first, TO_THE_END)]


def at_random(steps: dict[str, int], seed: str) -> Iterator[Schedule]:
    """Return schedules with any number of switches, always the same ones for a seed."""
    dice = random.Random(seed)  # noqa: S311 - an order, no secret
    for _ in range(RANDOM_SCHEDULES * (1 if len(steps) == 2 else 4)):
        turns = [name for name, most in steps.items() for _ in range(most)]
        dice.shuffle(turns)
        yield [(name, len(list(several))) for name, several in groupby(turns)]


@pytest.mark.parametrize("name", SCENES)
def test_two_transactions_leave_what_one_after_the_other_would(stage: Stage, name: str) -> None:
    scene = SCENES[name]
    serial, steps = stage.serial(scene)
    schedules = [*one_switch(steps), *(two_switches(steps) if DEEP else ()), *at_random(steps, name)]

    for schedule in schedules:
        result, played = stage.act(scene, schedule)

        assert result in serial, "\n".join([f"{name}: {schedule}", *played.trace])


@pytest.mark.parametrize("name", THREE)
def test_three_transactions_leave_what_some_order_would(stage: Stage, name: str) -> None:
    scene = THREE[name]
    serial, steps = stage.serial(scene)

    for schedule in [*(one_switch(steps) if DEEP else ()), *at_random(steps, name)]:
        result, played = stage.act(scene, schedule)

        assert result in serial, "\n".join([f"{name}: {schedule}", *played.trace])


def test_counters_that_several_make_at_once(stage: Stage) -> None:
    """Create counters in a cycle: one has the first and waits for the second, whose creator waits for the first."""
    world = World(stage.store, name=new_id())
    first, second = (Budget(new_id(), BudgetScope.AGENT, name, usd=Decimal(1)) for name in ("ann", "bob"))
    with stage.store.write() as tx:
        budgets.insert_new(tx, world.workspace, [first, second])

    def use(*wanted: Budget) -> Callable[[], int]:
        keys = [(one.id, "") for one in wanted]
        return lambda: len(stage.store.transact(lambda tx: budgets.lock_uses(tx, world.workspace, keys, create=keys)))

    works = {"one": use(first, second), "three": use(first, second), "two": use(second)}
    # "two" has created the second; "one" searched before that, creates the first and waits; "three" finds the second.
    schedule = [("two", 3), ("one", 2), ("two", TO_THE_END), ("three", 2), ("one", 1)]

    with gates(stage.store), refused_by_the_server(stage.store) as refused:
        played = play(works, schedule, stage.blocked)

    assert played.results == {"one": 2, "three": 2, "two": 1}
    assert played.waited
    assert refused == [], "\n".join(played.trace)


@pytest.mark.full
def test_on_sqlite_the_same_pairs_come_one_after_the_other(sqlite_url: str) -> None:
    """Run pairs on SQLite one after the other: an actor that begins while another writes waits for that one's end."""
    stage = SqliteStage(sqlite_url)
    waited = 0
    for name, scene in SCENES.items():
        serial, _ = stage.serial(scene)
        first, second = scene.actors

        result, played = stage.act(scene, [(first, 2), (second, TO_THE_END)])

        story = "\n".join([name, *played.trace])
        assert result in serial, story
        assert intruders(played.trace) == [], story
        waited += played.waited
    stage.close()
    assert waited == len(SCENES)


def intruders(trace: list[str]) -> list[str]:
    """Return statements of one actor between another's first statement and commit; a BEGIN only waits there."""
    statements: list[str] = []
    writer = None
    for line in trace:
        actor, _, statement = line.partition(": ")
        if statement.startswith("BEGIN"):
            continue
        if writer not in {None, actor}:
            statements.append(line)
        writer = None if statement == "COMMIT" else actor
    return statements
