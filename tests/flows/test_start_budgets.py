"""Test budgets of starts: counted with the claim, returned only when the job was never started."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from coordination.api.budgets import current_estimator
from coordination.base.errors import Refused
from coordination.domain.money.budgets import Budget, BudgetPeriod, BudgetScope, BudgetUse
from coordination.domain.money.caps import parse_caps
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.money.set_budget import check_budget, set_budget
from coordination.flows.tasks.explain_task import explain_task
from coordination.services.money import budgets as service
from coordination.store.queries.money import budgets
from coordination.store.tables.money.budgets import budget_uses
from coordination.store.tables.tasks.attempts import attempts
from coordination.store.types import db_after
from tests.support.golden_sentences import check_sentence
from tests.support.refusals import refuses
from tests.support.world import World

DAY = 24 * 3600.0
AGENT = {"run": {"agent": "claude", "prompt": "Mend it"}, "max_attempts": 50}
CHAT = {"run": {"chat": "openai:m", "prompt": "Hello"}, "max_attempts": 50}


def submit(world: World, keys: str, *, job: dict[str, Any] = AGENT, **settings: Any) -> None:
    """Submit a run with one task for each letter of *keys*."""
    world.submit(*keys, tasks=dict.fromkeys(keys, job), **settings)


def set_(
    world: World, scope: BudgetScope, subject: str | None = None, period: BudgetPeriod = BudgetPeriod.TOTAL, **caps: Any
) -> Budget:
    return world.store.transact(
        lambda tx: set_budget(tx, world.workspace, parse_caps(caps), scope=scope, subject=subject, period=period)
    )


def use(world: World, budget: Budget | None = None) -> BudgetUse:
    """Return the present period of a budget, or of the only one."""
    with world.store.read() as tx:
        (one,) = [budget] if budget else budgets.list_budgets(tx, world.workspace)
        key = (one.id, service.current_period(tx, world.workspace, one)[0])
        return budgets.read_uses(tx, world.workspace, [key]).get(key, BudgetUse(*key))


def started(world: World, budget: Budget | None = None) -> int:
    """Return the starts that are counted in it, after comparing them with the number of attempts."""
    kept = use(world, budget)
    with world.store.write() as tx:
        for one in budgets.list_budgets(tx, world.workspace):
            before, after = service.compare(tx, world.workspace, one)
            assert (before.spent, before.reserved) == (after.spent, after.reserved), one
    assert kept.reserved.starts == 0
    return kept.spent.starts


def explained(world: World, key: str) -> str:
    with world.store.read() as tx:
        explanation = explain_task(
            tx,
            world.workspace,
            world.task(key),
            live_within=timedelta(minutes=1),
            estimator=current_estimator(tx, world.workspace),
        )
    return "\n".join(explanation.lines())


class TestAtTheCap:
    def test_as_many_as_the_cap_allows_start_and_the_rest_waits(self, world: World) -> None:
        submit(world, "abc", budget=BudgetCap(starts=2))

        assert world.claim("a", "b", "c") == ["a", "b"]

        assert world.states() == {"a": "running", "b": "running", "c": "blocked"}
        assert world.task("c").reasons == BlockReason.BUDGET
        assert started(world) == 2
        world.finish("a")
        world.tick()
        assert world.states("c") == {"c": "blocked"}, "an end gives no start back"
        set_(world, BudgetScope.RUN, world.run_id, starts=3)
        world.tick()
        assert world.claim("c") == ["c"]
        assert started(world) == 3

    @pytest.mark.parametrize("period", [BudgetPeriod.TOTAL, BudgetPeriod.DAY])
    def test_a_task_that_waits_says_why_and_what_helps(self, world: World, period: BudgetPeriod) -> None:
        submit(world, "ab")
        set_(world, BudgetScope.PROJECT, world.project_id, period, starts=1)
        assert world.claim("a", "b") == ["a"]

        text = explained(world, "b")

        (line,) = [line for line in text.splitlines() if "budget" in line and "starts" in line]
        check_sentence(line.strip())

    def test_every_scope_and_period_holds(self, world: World) -> None:
        submit(world, "ab", job={**CHAT, "agent": "ann"})
        with world.store.read() as tx:
            session = tx.exec_driver_sql("SELECT session_id FROM runs").scalar_one()
        whose = {
            BudgetScope.WORKSPACE: None,
            BudgetScope.PROJECT: world.project_id,
            BudgetScope.AGENT: "ann",
            BudgetScope.SESSION: str(session),
            BudgetScope.RUN: world.run_id,
            BudgetScope.TASK: world.ids["a"],
        }
        created = [set_(world, scope, whose[scope], period, starts=9) for scope in whose for period in BudgetPeriod]

        world.claim("a")

        assert [started(world, one) for one in created] == [1] * 18
        for one in created:
            if one.scope is BudgetScope.TASK:
                continue
            set_(world, one.scope, whose[one.scope], one.period, starts=1)
            assert world.claim("b") == [], one
            assert world.states("b") == {"b": "blocked"}
            set_(world, one.scope, whose[one.scope], one.period, starts=9)
            world.tick()

    def test_a_command_starts_for_nothing(self, world: World) -> None:
        world.submit("a", "b", budget=BudgetCap(starts=0))

        assert world.claim("a", "b") == ["a", "b"]
        assert started(world) == 0

    def test_a_cap_of_starts_stands_beside_one_in_tokens(self, world: World) -> None:
        submit(world, "ab", budget=BudgetCap(tokens=1000, starts=1))

        assert world.claim("a", "b") == ["a"]
        assert started(world) == 1

    def test_a_budget_that_only_warns_holds_nothing_back_and_says_both_once(self, world: World) -> None:
        submit(world, "abcdef", budget=BudgetCap(starts=5, on_exceed="warn"))

        reports = []
        for key in "abcdef":
            assert world.claim(key) == [key]
            reports.append(len(world.sql("SELECT seq FROM events WHERE type LIKE 'budget%'")))

        assert reports == [0, 0, 0, 1, 2, 2]
        rows = world.sql("SELECT type FROM events WHERE type LIKE 'budget%' ORDER BY seq")
        assert [row.type for row in rows] == ["budget_warned", "budget_reached"]

    def test_a_downgrade_gives_the_last_starts_the_cheaper_model_and_then_waits(self, world: World) -> None:
        cap = BudgetCap(starts=3, on_exceed="downgrade", warn_at=50, downgrade_to="openai:small")
        submit(world, "abcd", job=CHAT, budget=cap)

        assert world.claim("a", "b", "c", "d") == ["a", "b", "c"]

        assert [world.claims[key].work["chat"] for key in "abc"] == ["openai:m", "openai:small", "openai:small"]
        assert world.states("d") == {"d": "blocked"}


class TestWhatCounts:
    @pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.LOST])
    def test_a_start_counts_whatever_it_ends_as(self, world: World, outcome: Outcome) -> None:
        submit(world, "a", budget=BudgetCap(starts=2))
        world.claim("a")
        if outcome is Outcome.CANCELED:
            world.cancel("a")

        world.finish("a", outcome, error="no")

        assert started(world) == 1

    def test_a_lost_attempt_counts_once_and_so_does_the_next_one(self, world: World) -> None:
        submit(world, "a", budget=BudgetCap(starts=2))
        world.claim("a")
        late = world.claims["a"]
        world.expire("a")
        world.tick()
        assert (world.outcomes("a"), started(world)) == (["lost"], 1)

        world.finish(late)  # its worker was only cut off
        assert started(world) == 1
        assert world.claim("a") == ["a"]
        world.store.transact(lambda tx: rescue_worker(tx, world.worker))

        assert (world.outcomes("a"), started(world)) == (["lost", "lost"], 2)
        assert world.claim("a") == []

    @pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.HANDED_BACK, Outcome.FAILED, Outcome.CANCELED])
    def test_what_was_never_started_is_given_back_once(self, world: World, outcome: Outcome) -> None:
        submit(world, "ab", budget=BudgetCap(starts=1))
        assert world.claim("a", "b") == ["a"]

        finished = world.finish("a", outcome, job_started=False, retryable=False)

        assert finished.effects.money_returned
        assert started(world) == 0
        world.finish("a", outcome, job_started=False, retryable=False)  # the answer to the commit was lost
        assert started(world) == 0
        world.tick()
        assert world.claim("b") == ["b"]

    def test_a_canceled_task_gives_its_start_back_when_its_job_never_began(self, world: World) -> None:
        submit(world, "a", budget=BudgetCap(starts=1))
        world.claim("a")
        world.cancel("a")
        assert started(world) == 1

        world.finish("a", Outcome.CANCELED, job_started=False)

        assert started(world) == 0

    def test_a_job_that_a_dead_worker_had_not_begun_is_no_start(self, world: World) -> None:
        submit(world, "ab", budget=BudgetCap(starts=2))
        world.claim("a", "b")
        begun = {(world.ids["a"], 1)}

        world.store.transact(lambda tx: rescue_worker(tx, world.worker, started=begun))

        assert world.outcomes("a") == world.outcomes("b") == ["lost"]
        assert started(world) == 1


class TestPeriods:
    def test_a_start_counts_on_the_day_of_its_claim_and_the_next_day_begins_with_none(self, world: World) -> None:
        submit(world, "ab")
        budget = set_(world, BudgetScope.PROJECT, world.project_id, BudgetPeriod.DAY, starts=1)
        assert world.claim("a", "b") == ["a"]
        self.midnight(world)

        world.tick()

        assert world.claim("b") == ["b"]
        assert started(world, budget) == 1
        world.finish("a", Outcome.HANDED_BACK, job_started=False)
        assert started(world, budget) == 1, "what is given back is yesterday's"
        assert [row.spent_starts for row in world.sql("SELECT spent_starts FROM budget_uses ORDER BY starts")] == [0, 1]

    @staticmethod
    def midnight(world: World) -> None:
        """Move the time of the claims to yesterday."""
        yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
        with world.store.write() as tx:
            for task_id, reserved in tx.execute(select(attempts.c.task_id, attempts.c.reserved)).all():
                noted = {**reserved, "of": [[budget_id, yesterday] for budget_id, _ in reserved["of"]]}
                tx.execute(
                    update(attempts)
                    .where(attempts.c.task_id == task_id)
                    .values(reserved=noted, started_at=db_after(-DAY))
                )
            tx.execute(update(budget_uses).values(starts=yesterday))

    def test_a_budget_that_is_set_counts_what_started_before_in_its_period(self, world: World) -> None:
        submit(world, "abcdef")
        world.claim("a", "b", "c", "d")
        world.finish("a")
        world.finish("b", Outcome.FAILED, error="no")
        world.finish("c", Outcome.HANDED_BACK, job_started=False)
        total = set_(world, BudgetScope.PROJECT, world.project_id, starts=4)
        assert started(world, total) == 3

        world.finish("d", Outcome.DEFERRED, job_started=False)  # it was claimed when the budget was set
        assert started(world, total) == 2
        assert world.claim("e", "f") == ["e", "f"]
        assert world.claim("c") == []

    def test_a_budget_of_a_day_counts_nothing_of_the_days_before(self, world: World) -> None:
        submit(world, "ab")
        world.claim("a", "b")
        world.finish("a")
        with world.store.write() as tx:
            tx.execute(update(attempts).where(attempts.c.outcome.is_not(None)).values(started_at=db_after(-DAY)))

        day = set_(world, BudgetScope.PROJECT, world.project_id, BudgetPeriod.DAY, starts=5)

        assert started(world, day) == 1

    def test_a_cap_below_what_has_started_is_refused_and_changes_nothing(self, world: World) -> None:
        submit(world, "ab", budget=BudgetCap(starts=5))
        world.claim("a", "b")

        with refuses(Refused):
            set_(world, BudgetScope.RUN, world.run_id, starts=1)

        assert use(world).spent.starts == 2
        with world.store.read() as tx:
            assert [one.max_starts for one in budgets.list_budgets(tx, world.workspace)] == [5]
        assert set_(world, BudgetScope.RUN, world.run_id, starts=2).max_starts == 2


class TestChecked:
    def test_what_retention_has_deleted_stays_counted(self, world: World) -> None:
        submit(world, "ab", budget=BudgetCap(starts=1))
        world.claim("a")
        world.finish("a")
        world.sql("DELETE FROM attempts")

        assert started(world) == 1
        set_(world, BudgetScope.RUN, world.run_id, starts=1, warn_at=50)
        assert world.claim("b") == []

    def test_a_repair_counts_what_an_earlier_program_claimed(self, world: World) -> None:
        submit(world, "ab", budget=BudgetCap(starts=9))
        world.claim("a", "b")
        world.sql("UPDATE budget_uses SET spent_starts = 0")
        with world.store.read() as tx:
            (one,) = budgets.list_budgets(tx, world.workspace)

        kept, counted = world.store.transact(lambda tx: check_budget(tx, world.workspace, one, repair=True))

        assert (kept.spent.starts, counted.spent.starts) == (0, 2)
        assert started(world) == 2
