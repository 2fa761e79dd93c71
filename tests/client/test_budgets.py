"""Test budgets by the Python API, on both databases: set, read, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from coordination.api.connection import Coordination, connect
from coordination.base.errors import CoordinationError, NotFound, Refused
from coordination.domain.money.budgets import BudgetPeriod, BudgetScope, ExceededAction
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Usage
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.services.attempts.end import build_cost_record
from coordination.settings import load_settings
from coordination.store.engine import Store
from coordination.views.money import budget
from tests.support.refusals import refuses
from tests.support.world import World

DIME = Decimal("0.10")
ESTIMATE = {"estimate": {"usd": "0.10"}}


@pytest.fixture
def co(store_url: str, tmp_path: Path) -> Iterator[Coordination]:
    with connect(
        load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")}), migrate=True
    ) as created:
        yield created


@pytest.fixture
def world(co: Coordination) -> World:
    """Provide two tasks of a dime each, of which one has spent it; the run has a budget of fifteen cents."""
    world = World(co.runtime.store)
    tasks = {key: {**ESTIMATE, "agent": "ann"} for key in "ab"}
    world.submit("a", "b", tasks=tasks, budget=BudgetCap(Decimal("0.15")), name="nightly")
    assert world.claim("a", "b") == ["a"]
    world.finish("a", usage=(Usage("m", input_tokens=10, cost_usd=DIME),))
    return world


def stored(co: Coordination) -> list[dict[str, Any]]:
    return [budget(one) for one in co.budgets.list(ended=True)]


def test_a_run_says_what_is_spent_and_left_and_who_waits(co: Coordination, world: World) -> None:
    standing = co.run(world.run_id).budget

    assert standing is not None
    assert (standing.scope, standing.period, standing.name) == (BudgetScope.RUN, BudgetPeriod.TOTAL, "nightly")
    assert (standing.spent.usd, standing.reserved.usd, standing.left_usd) == (DIME, 0, Decimal("0.05"))
    assert (standing.percent, standing.waiting) == (66, 1)


def test_reserved_money_is_told_while_a_job_runs(co: Coordination, world: World) -> None:
    co.budgets.raise_to("nightly", "0.45")
    world.tick()
    assert world.claim("b") == ["b"]

    standing = co.run(world.run_id).budget
    assert standing is not None
    assert (standing.spent.usd, standing.reserved.usd, standing.left_usd) == (DIME, 2 * DIME, Decimal("0.15"))
    assert (standing.percent, standing.waiting) == (22, 0)


def test_what_is_not_said_of_a_budget_stays(co: Coordination, world: World) -> None:
    co.budgets.set("run", "nightly", tokens=1000, on_exceed="downgrade", downgrade_to="m-small", warn_at=50)
    created = co.budgets.set("run", "nightly", usd="2")

    assert (created.usd, created.tokens, created.budget.unpriced_calls) == (Decimal(2), 1000, 0)
    assert (created.on_exceed, created.budget.downgrade_to, created.budget.warn_percent) == (
        ExceededAction.DOWNGRADE,
        "m-small",
        50,
    )
    created = co.budgets.set("run", "nightly", on_exceed="warn", tokens=None, warn_at=None, max_unpriced_calls=None)
    assert (created.usd, created.tokens, created.budget.unpriced_calls) == (Decimal(2), None, None)
    assert (created.on_exceed, created.budget.downgrade_to, created.budget.warn_percent) == (
        ExceededAction.WARN,
        None,
        None,
    )
    assert co.budgets.set("run", "nightly", usd=3).budget.unpriced_calls is None
    assert len(stored(co)) == 1


def test_a_cap_of_starts_is_set_read_and_taken_away(co: Coordination, world: World) -> None:
    created = co.budgets.set("project", "shop", starts=3, period="day")

    assert (created.max_starts, created.spent.starts, created.left_starts, created.usd) == (3, 0, 3, None)
    assert co.budgets.set("project", "shop", period="day", warn_at=50).max_starts == 3
    assert co.budgets.set("project", "shop", period="day", starts=None, usd=1).max_starts is None


def test_every_scope_can_be_named_as_people_name_it(co: Coordination, world: World) -> None:
    session = co.run(world.run_id).record.session_id
    co.budgets.set("workspace", usd=100, period="month")
    co.budgets.set("project", "shop", usd=50, period="day")
    co.budgets.set("agent", "ann", usd=5)
    co.budgets.set("session", session, usd=20)
    co.budgets.set("task", "b", tokens=9000)

    assert [(one.scope, one.name, one.spent.usd, one.waiting) for one in co.budgets.list()] == [
        (BudgetScope.WORKSPACE, "default", DIME, 0),
        (BudgetScope.PROJECT, "shop", DIME, 0),
        (BudgetScope.AGENT, "ann", DIME, 0),
        (BudgetScope.SESSION, session, DIME, 0),
        (BudgetScope.RUN, "nightly", DIME, 1),
        (BudgetScope.TASK, "b", 0, 0),
    ]
    assert {one.scope for one in co.budgets.list(project="shop")} == set(BudgetScope) - {
        BudgetScope.WORKSPACE,
        BudgetScope.AGENT,
    }
    assert {one.scope for one in co.budgets.list(run="nightly")} == {BudgetScope.RUN, BudgetScope.TASK}
    assert co.budgets.remove("agent", "ann").spent.usd == DIME
    assert co.budgets.of("agent", "ann") == []


Refusal = tuple[type[CoordinationError], str | None]


@pytest.mark.parametrize(
    ("whose", "said", "refusal"),
    [
        (("agent", "bob"), {"usd": 1}, (NotFound, None)),
        (("session", "x"), {"usd": 1}, (NotFound, None)),
        (("session", "00000000-0000-7000-8000-000000000000"), {"usd": 1}, (NotFound, None)),
        (("run", "weekly"), {"usd": 1}, (NotFound, None)),
        (("project", None), {"usd": 1}, (Refused, None)),
        (("workspace", "x"), {"usd": 1}, (Refused, None)),
        (("team", "x"), {"usd": 1}, (Refused, "scope")),
        (("run", "nightly"), {"usd": 1, "period": "week"}, (Refused, "period")),
        (("run", "nightly"), {"usd": "much"}, (Refused, "usd")),
        (("run", "nightly"), {"usd": -1}, (Refused, "usd")),
        (("run", "nightly"), {"usd": "0.05"}, (Refused, None)),
        (("run", "nightly"), {"tokens": 5}, (Refused, None)),
        (("run", "nightly"), {"usd": None}, (Refused, None)),
        (("run", "nightly"), {"starts": 1.5}, (Refused, "starts")),
        (("run", "nightly"), {"on_exceed": "downgrade"}, (Refused, "downgrade_to")),
        (("run", "nightly"), {"warn_at": 101}, (Refused, "warn_at")),
    ],
)
def test_what_is_no_budget_is_refused_and_changes_nothing(
    co: Coordination, world: World, whose: tuple[str, str | None], said: dict[str, Any], refusal: Refusal
) -> None:
    before = stored(co)

    with refuses(refusal[0], field=refusal[1]):
        co.budgets.set(*whose, **said)

    assert stored(co) == before


def test_raising_says_what_holds_the_run_if_that_is_something_else(co: Coordination, world: World) -> None:
    with refuses(Refused):
        co.budgets.raise_to("nightly", "0.15")
    co.budgets.remove("run", "nightly")
    co.budgets.set("project", "shop", usd="0.12", period="day")

    with refuses(Refused) as refused:
        co.budgets.raise_to("nightly", "5")

    assert f"budgets set project {world.project_id} " in str(refused.value.hint)


def test_of_several_budgets_of_one_subject_it_is_said_which_goes(co: Coordination, world: World) -> None:
    co.budgets.set("project", "shop", usd=1, period="day")
    co.budgets.set("project", "shop", usd=9, period="month")

    with refuses(Refused):
        co.budgets.remove("project", "shop")

    assert co.budgets.remove("project", "shop", period="day").usd == 1
    assert [one.usd for one in co.budgets.of("project", "shop")] == [9]
    co.budgets.remove("project", "shop")
    with refuses(NotFound):
        co.budgets.remove("project", "shop")


def test_a_check_finds_what_was_counted_wrong_and_mends_it(co: Coordination, world: World) -> None:
    co.budgets.raise_to("nightly", "0.35")
    world.tick()
    world.claim("b")
    assert [one.right for one in co.budgets.check()] == [True]
    world.sql("UPDATE budget_uses SET spent_tokens = 7, reserved_tokens = 3")

    (wrong,) = co.budgets.check()
    assert (wrong.right, wrong.kept.spent.tokens, wrong.counted.spent.tokens) == (False, 7, 10)
    assert [one.right for one in co.budgets.check()] == [False], "looking changes nothing"
    co.budgets.check(repair=True)

    assert [one.right for one in co.budgets.check()] == [True]
    claim = world.claims["b"]
    records = [build_cost_record(claim, Usage("m", cost_usd=Decimal("0.02"), id="x"), datetime.now(UTC))]
    co.runtime.store.transact(lambda tx: checkpoint_costs(tx, world.workspace, records))
    assert [one.right for one in co.budgets.check()] == [True]


def test_budgets_of_what_has_ended_are_not_in_the_way(co: Coordination, world: World) -> None:
    world.cancel("b")

    assert co.budgets.list() == []
    assert [one.scope for one in co.budgets.list(ended=True)] == [BudgetScope.RUN]
    assert [one.scope for one in co.budgets.list(run="nightly")] == [BudgetScope.RUN]


def test_a_workspace_does_not_see_the_budgets_of_another(co: Coordination, world: World) -> None:
    other = World(co.runtime.store, "other", "example.org/acme/other")
    other.submit("a", budget=BudgetCap(Decimal(1)))

    assert [one.name for one in co.budgets.list()] == ["nightly"]


def test_the_listed_budgets_and_their_status_are_of_one_moment(
    co: Coordination, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, read = list[Store](), Store.read

    def counted_read(store: Store) -> AbstractContextManager[Connection]:
        begun.append(store)
        return read(store)

    monkeypatch.setattr(Store, "read", counted_read)

    assert [one.name for one in co.budgets.list()] == ["nightly"]
    assert len(begun) == 1, "a budget that changes in between would have the status of another one"
