"""Test the statements of a claim, on both databases: which tasks they skip, and that they do not wait for locks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.retry import Complete
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds import CONDITIONS
from coordination.store.engine import open_store
from coordination.store.queries.tasks import attempts, claims, dependencies, ready
from coordination.store.tables.tasks.tasks import tasks as table
from tests.support.world import LEASE, World

pytestmark = pytest.mark.hot_sql


@pytest.fixture
def pg(postgres_url: str) -> Iterator[World]:
    store = open_store(postgres_url)
    yield World(store)
    store.close()


def claim_free(world: World, *keys: str, limit: int | None = None) -> list[str]:
    ids = [world.ids[key] for key in keys]
    with world.store.write() as tx:
        claimed = claims.claim_free(
            tx, world.workspace, ids, held_if=CONDITIONS, worker_id=world.worker, lease=LEASE, limit=limit
        )
    return [one.key for one in claimed]


def waiting(world: World, *keys: str) -> list[str]:
    names = {task_id: key for key, task_id in world.ids.items()}
    with world.store.write() as tx:
        ids = [world.ids[key] for key in keys]
        return [names[row.id] for row in claims.lock_candidates(tx, world.workspace, ids, held_if=CONDITIONS)]


class TestAClaim:
    def test_the_best_are_claimed_first_and_no_more_than_wanted(self, world: World) -> None:
        world.submit("low", "high", "next", tasks={"high": {"priority": 5}, "next": {"priority": 1}})

        assert claim_free(world, "low", "high", "next", limit=2) == ["high", "next"]

        assert world.states() == {"low": "queued", "high": "running", "next": "running"}

    def test_what_something_limits_is_left_to_the_slower_statement(self, world: World) -> None:
        world.submit("a", concurrency=Concurrency(project=1))

        assert claim_free(world, "a") == []

        assert world.states() == {"a": "queued"}
        assert waiting(world, "a") == ["a"]

    @pytest.mark.parametrize("status", ["on_hold", "archived"])
    def test_what_belongs_to_a_project_on_hold_is_left_alone(self, world: World, status: str) -> None:
        world.submit("a")
        world.sql("UPDATE projects SET status = :status", status=status)

        assert claim_free(world, "a") == []

        assert world.states() == {"a": "queued"}

    def test_nothing_is_claimed_beside_an_attempt_that_may_still_run(self, world: World) -> None:
        world.submit("a", "b", tasks={"b": {"concurrency_key": "k"}})
        world.claim("a", "b")
        for key in "ab":
            world.cancel(key)
            world.retry(key)

        assert (claim_free(world, "a"), waiting(world, "a", "b")) == ([], [])

    def test_a_claim_leaves_no_trace_of_the_last_attempt_in_the_row(self, world: World) -> None:
        world.submit("a", tasks={"a": {"max_attempts": 2}})
        world.claim("a")
        world.finish("a", Outcome.FAILED, error="no")
        world.make_due("a")
        assert world.task("a").error == "no"

        world.claim("a")

        assert (world.task("a").error, world.task("a").not_before) == (None, None)
        assert [one.number for one in world.attempts("a")] == [1, 2]
        assert all(one.lease_until > one.started_at for one in world.attempts("a"))

    @pytest.mark.parametrize("limits", [{}, {"concurrency_key": "k"}], ids=["unlimited", "limited"])
    def test_nobody_waits_for_a_row_that_somebody_else_has_locked_and_it_is_named(
        self, pg: World, limits: dict[str, str]
    ) -> None:
        pg.submit("locked", "free", tasks={"locked": limits})
        pg.tick()
        with ThreadPoolExecutor(1) as pool, pg.store.write() as other:
            other.execute(select(table.c.id).where(table.c.id == pg.ids["locked"]).with_for_update()).all()

            claimed = pool.submit(pg.claim, "locked", "free").result(timeout=15)

        assert claimed == ["free"]
        with pg.store.write() as tx:
            assert claims.still_enqueued(tx, pg.workspace, list(pg.ids.values())) == [pg.ids["locked"]]

    def test_what_waits_for_its_time_or_has_no_message_out_is_not_named(self, pg: World) -> None:
        pg.submit("marked", "unmarked", "later", "runs", tasks={"later": {"max_attempts": 2}})
        pg.claim("runs")
        pg.do("later", outcome=Outcome.FAILED, error="no")
        pg.sql("UPDATE tasks SET enqueued_at = CASE WHEN key = 'unmarked' THEN NULL ELSE now() END")

        with pg.store.read() as tx:
            named = claims.still_enqueued(tx, pg.workspace, list(pg.ids.values()))

        assert named == [pg.ids["marked"]]

    def test_on_sqlite_nobody_else_writes_meanwhile(self, sqlite_url: str) -> None:
        store = open_store(sqlite_url)
        world = World(store)
        world.submit("a")
        world.tick()

        with store.read() as tx:
            assert claims.still_enqueued(tx, world.workspace, [world.ids["a"]]) == []
        store.close()


class TestACompletion:
    def complete(self, world: World, *rows: EndedAttempt) -> tuple[set[tuple[str, int]], list[str]]:
        with world.store.write() as tx:
            fences, freed = attempts.complete(
                tx, world.workspace, world.project_id, rows, actor=f"worker:{world.worker}"
            )
        return fences, [one.ready.key for one in freed]

    def row(self, world: World, key: str, attempt: int = 1) -> EndedAttempt:
        end = AttemptEnd(Outcome.COMPLETED, exit_code=0)
        return EndedAttempt(world.ids[key], attempt, world.run_id, key, end, Complete())

    def test_those_that_are_still_ours_complete_beside_one_that_is_not(self, world: World) -> None:
        world.submit("mine", "lost", "child < mine", "other < lost")
        world.claim("mine", "lost")
        world.expire("lost")
        world.tick()

        fences, freed = self.complete(world, self.row(world, "mine"), self.row(world, "lost"))

        assert (fences, freed) == ({(world.ids["mine"], 1)}, ["child"])
        assert world.states() == {"mine": "completed", "lost": "queued", "child": "queued", "other": "blocked"}
        assert world.attempts("lost")[0].outcome == "lost"

    def test_an_attempt_that_was_canceled_completes_nothing(self, world: World) -> None:
        world.submit("a", "child < a")
        world.claim("a")
        world.cancel("a")

        assert self.complete(world, self.row(world, "a")) == (set(), [])

        assert world.states()["a"] == "canceled"
        assert world.outcomes("a") == [None]

    def test_what_was_released_comes_best_first(self, world: World) -> None:
        world.submit("a", "low < a", "high < a", tasks={"high": {"priority": 7}})
        world.claim("a")

        assert self.complete(world, self.row(world, "a"))[1] == ["high", "low"]

    def test_rows_of_another_workspace_are_not_completed(self, world: World) -> None:
        other = World(world.store, name="another", project="example.org/acme/mill")
        world.submit("a")
        other.submit("b")
        other.claim("b")

        assert self.complete(world, self.row(other, "b")) == (set(), [])

        assert other.states() == {"b": "running"}


class TestWhatIsReady:
    def test_a_start_time_that_has_come_is_the_only_one_that_is_lifted(self, world: World) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        world.submit(
            "due", "later", "both < due", tasks={key: {"not_before": later} for key in ("due", "later", "both")}
        )
        world.make_due("due", "both")

        with world.store.write() as tx:
            rows = ready.lift_due(tx, world.workspace, world.project_id, BlockReason.NOT_BEFORE)
            lifted = {str(row["id"]): row["state"] for row in rows}

        assert lifted == {world.ids["due"]: "queued", world.ids["both"]: "blocked"}
        assert world.task("both").reasons == BlockReason.DEPENDENCIES
        assert world.states()["later"] == "blocked"

    def test_the_next_ones_are_due_unmarked_and_best_first(self, world: World) -> None:
        world.submit("out", "low", "high", "later", tasks={"high": {"priority": 3}, "later": {"max_attempts": 2}})
        world.do("later", outcome=Outcome.FAILED, error="no")
        world.sql("UPDATE tasks SET enqueued_at = NULL")
        with world.store.write() as tx:
            ready.mark_enqueued(tx, world.workspace, [world.ids["out"]])

        with world.store.write() as tx:
            rows = ready.next_to_enqueue(tx, world.workspace, world.project_id, room=9)
            first = ready.next_to_enqueue(tx, world.workspace, world.project_id, room=1)

        assert [row["key"] for row in rows] == ["high", "low"]
        assert [row["key"] for row in first] == ["high"]

    def test_two_who_look_at_once_do_not_choose_the_same(self, pg: World) -> None:
        pg.submit("a", "b")
        with pg.store.write() as one, pg.store.write() as other:
            first = [row["key"] for row in ready.next_to_enqueue(one, pg.workspace, pg.project_id, room=1)]
            second = [row["key"] for row in ready.next_to_enqueue(other, pg.workspace, pg.project_id, room=1)]

        assert (first, second) == (["a"], ["b"])

    def test_a_counter_never_falls_below_zero(self, world: World) -> None:
        world.submit("a", "b", "child < a b")

        with world.store.write() as tx:
            freed = ready.lower_pending(tx, world.workspace, {world.ids["child"]: 5})

        assert [task_id for task_id, _ in freed] == [world.ids["child"]]
        assert world.task("child").pending == 0

    def test_edges_that_are_satisfied_do_not_count_as_open(self, world: World) -> None:
        world.submit("a", "b", "child < a b")
        world.do("a")

        with world.store.read() as tx:
            assert dependencies.count_open(tx, world.workspace, world.ids["child"]) == 1
            assert dependencies.waiting_children(tx, world.workspace, [world.ids[key] for key in "ab"]) == {
                world.ids["child"]: [world.ids["b"]]
            }
            assert dependencies.count_open(tx, world.workspace, new_id()) == 0
