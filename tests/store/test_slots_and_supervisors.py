"""Test counters of places, and the leases of ticks: used places are released, and no write happens without a lease."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update

from coordination.domain.fleet.supervisor_status import Supervisor
from coordination.domain.plans.plans import Concurrency
from coordination.store.engine import open_store
from coordination.store.queries.fleet import supervisors
from coordination.store.queries.tasks import slots
from coordination.store.tables.fleet.workers import supervisors as table
from coordination.store.types import db_after
from tests.support.world import World

pytestmark = pytest.mark.hot_sql

LEASE = timedelta(seconds=60)
LIFETIME = timedelta(hours=4)


class TestSlots:
    @pytest.fixture
    def limited(self, world: World) -> World:
        world.submit("a", "b", concurrency=Concurrency(project=3, keys={"k": 2}), tasks={"a": {"concurrency_key": "k"}})
        return world

    def test_a_place_counts_as_often_as_it_is_taken(self, limited: World) -> None:
        scope = limited.workspace, limited.project_id
        with limited.store.write() as tx:
            slots.take(tx, *scope, {"project": 2, "key:k": 1})
            assert slots.lock(tx, *scope) == {"project": 1, "key:k": 1}
            slots.give_back(tx, *scope, ["project", "key:k", "project"])

        assert limited.used() == {"project": 0, "key:k": 0}

    def test_more_is_never_given_back_than_was_taken(self, limited: World) -> None:
        with limited.store.write() as tx:
            slots.give_back(tx, limited.workspace, limited.project_id, ["project"])

        assert limited.used() == {"project": 0, "key:k": 0}

    def test_a_new_cap_leaves_what_is_used(self, limited: World) -> None:
        limited.claim("a")
        scope = limited.workspace, limited.project_id

        with limited.store.write() as tx:
            slots.ensure(tx, *scope, {"project": 9, "agent:bo": 1})
            slots.set_caps(tx, *scope, {"key:k": 1, "key:new": 4})

        with limited.store.read() as tx:
            caps = {row["name"]: (row["cap"], row["used"]) for row in slots.list_slots(tx, *scope)}
            free = slots.count_free(tx, *scope)
            bo = slots.stored_name(tx, limited.workspace, "agent:bo")
        assert caps == {"project": (3, 1), "key:k": (1, 1), "key:new": (4, 0), "agent:bo": (1, 0)}
        assert free == {"project": 2, "key:k": 0, "key:new": 4, bo: 1}
        assert bo != "agent:bo"

    def test_a_recount_looks_at_open_attempts_only(self, limited: World) -> None:
        limited.claim("a", "b")
        limited.finish("b")
        limited.sql("UPDATE slots SET used = 0")

        with limited.store.write() as tx:
            wrong = slots.recount(tx, limited.workspace, limited.project_id)

        assert wrong == ["key:k", "project"]
        assert limited.used() == {"project": 1, "key:k": 1}

    def test_a_limit_of_another_project_is_not_touched(self, limited: World) -> None:
        other = World(limited.store, project="example.org/acme/mill")
        other.submit("c", concurrency=Concurrency(project=3))
        other.claim("c")

        with limited.store.write() as tx:
            slots.give_back(tx, limited.workspace, limited.project_id, ["project"])
            assert slots.drop(tx, limited.workspace, limited.project_id, "project")

        assert other.used() == {"project": 1}


class TestSupervisors:
    @pytest.fixture
    def shop(self, world: World) -> World:
        world.submit("a")
        return world

    def get(self, world: World) -> Supervisor:
        with world.store.read() as tx:
            row = supervisors.get(tx, world.workspace, world.project_id)
        assert row is not None
        return row

    def begin(self, world: World, owner: str, *, lease: timedelta = LEASE, every: timedelta | None = None) -> bool:
        with world.store.write() as tx:
            begun = supervisors.begin_tick(tx, world.workspace, world.project_id, owner=owner, lease=lease, every=every)
        return begun is not None

    def end_tick(self, world: World, owner: str) -> bool:
        scope = world.workspace, world.project_id
        with world.store.write() as tx:
            return supervisors.end_tick(tx, *scope, owner=owner, state={"by": owner}, lifetime=LIFETIME)

    def age(self, world: World, age: timedelta) -> None:
        with world.store.write() as tx:
            tx.execute(update(table).values(heartbeat_at=db_after(-age.total_seconds())))

    def test_a_tick_whose_lease_ran_out_can_be_begun_by_another_and_not_ended_by_the_first(self, shop: World) -> None:
        assert self.begin(shop, "one", lease=timedelta(seconds=-1))
        assert self.begin(shop, "two")

        assert not self.end_tick(shop, "one")

        assert self.get(shop).state == {}
        assert self.end_tick(shop, "two")
        assert self.get(shop).state == {"by": "two"}

    def test_a_tick_that_has_ended_leaves_the_project_to_the_next_one_at_once(self, shop: World) -> None:
        self.begin(shop, "one")
        self.end_tick(shop, "one")

        assert self.begin(shop, "two")

    def test_a_failed_tick_rests_and_its_heartbeat_stays_old(self, shop: World) -> None:
        self.age(shop, timedelta(minutes=5))
        self.begin(shop, "one")
        with shop.store.write() as tx:
            supervisors.note_error(tx, shop.workspace, shop.project_id, owner="one", error="no", rest=LEASE)

        assert not self.begin(shop, "two")

        assert self.get(shop).error == "no"
        assert self.get(shop).age > timedelta(minutes=4)

    def test_an_ended_supervisor_is_neither_due_nor_ticked(self, shop: World) -> None:
        self.age(shop, timedelta(minutes=5))
        shop.sql("UPDATE supervisors SET ended_at = heartbeat_at")

        with shop.store.write() as tx:
            assert supervisors.list_due(tx, every=timedelta(seconds=5)) == []
            assert supervisors.begin_due_tick(tx, every=timedelta(seconds=5), owner="one", lease=LEASE) is None
        assert not self.begin(shop, "one")

    def test_a_project_that_is_being_ticked_is_not_due(self, shop: World) -> None:
        self.age(shop, timedelta(minutes=5))
        self.begin(shop, "one")

        with shop.store.write() as tx:
            assert supervisors.list_due(tx, every=timedelta(seconds=5)) == []
            assert supervisors.begin_due_tick(tx, every=timedelta(seconds=5), owner="two", lease=LEASE) is None

    def test_a_supervisor_does_not_end_when_work_came_since_its_tick_began(self, shop: World) -> None:
        self.begin(shop, "one")

        with shop.store.write() as tx:
            scope = shop.workspace, shop.project_id
            supervisors.ensure(tx, *scope, session_key="next", lifetime=LIFETIME)
            early = supervisors.end(tx, *scope, owner="one", state={}, submissions=1)
            ended = supervisors.end(tx, *scope, owner="one", state={}, submissions=2)

        assert (early, ended) == (False, True)
        assert self.get(shop).ended_at is not None

    def test_one_that_lives_keeps_its_key_and_one_that_has_ended_is_woken_under_a_new_one(self, shop: World) -> None:
        scope = shop.workspace, shop.project_id
        first = self.get(shop).session_key
        with shop.store.write() as tx:
            supervisors.ensure(tx, *scope, session_key="second", lifetime=LIFETIME)
        assert self.get(shop).session_key == first
        shop.sql("UPDATE supervisors SET ended_at = heartbeat_at, error = 'old'")

        with shop.store.write() as tx:
            supervisors.ensure(tx, *scope, session_key="third", lifetime=LIFETIME)

        woken = self.get(shop)
        assert (woken.session_key, woken.ended_at, woken.error) == ("third", None, None)

    def test_two_that_take_what_is_due_at_once_take_different_projects(self, pg: World) -> None:
        other = World(pg.store, name="another", project="example.org/acme/mill")
        pg.submit("a")
        other.submit("b")
        self.age(pg, timedelta(minutes=5))
        every = timedelta(seconds=5)

        with pg.store.write() as one, pg.store.write() as two:
            first = supervisors.begin_due_tick(one, every=every, owner="one", lease=LEASE)
            second = supervisors.begin_due_tick(two, every=every, owner="two", lease=LEASE)

        assert first is not None
        assert second is not None
        assert {first.project_id, second.project_id} == {pg.project_id, other.project_id}

    @pytest.fixture
    def pg(self, postgres_url: str) -> Iterator[World]:
        store = open_store(postgres_url)
        yield World(store)
        store.close()
