"""Test agents by the Python API, on both databases: created, changed, shown with results, moved as JSON, refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination import Plan, Profile, ProjectRef, Task, connect
from coordination.api.connection import Coordination
from coordination.api.runs import Run
from coordination.base.errors import NotFound, Refused
from coordination.domain.money.costs import CostRecord
from coordination.domain.plans.plans import Concurrency
from coordination.services.money import ledger as ledger_service
from coordination.settings import load_settings
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import slots
from tests.support.refusals import refuses

MENDER = Profile("dave/vc", runner={"agent": "claude"}, model="m", identity={"role": "mender"}, default=True)


@pytest.fixture
def co(store_url: str, tmp_path: Path) -> Iterator[Coordination]:
    settings = load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})
    with connect(settings, migrate=True) as created:
        yield created


def names(co: Coordination) -> list[str]:
    return [agent.profile.name for agent in co.agents.list()]


def test_an_agent_is_made_changed_cloned_and_forgotten(co: Coordination) -> None:
    co.agents.create(MENDER)
    changed = co.agents.change("dave/vc", model=None, labels=["python"], objective="Keep it green")
    co.agents.change("dave/vc", name="dave/shop")
    cloned = co.agents.clone("dave/shop", "ann")

    assert (changed.profile.model, list(changed.profile.labels), changed.profile.runner) == (
        None,
        ["python"],
        {"agent": "claude"},
    )
    assert cloned.profile.objective == "Keep it green"
    assert not cloned.profile.default
    assert names(co) == ["ann", "dave/shop"]
    assert co.agents.get("dave/shop").profile.default
    co.agents.delete("ann")
    assert names(co) == ["dave/shop"]


def test_what_it_came_to_is_counted_from_its_tasks(co: Coordination, tmp_path: Path) -> None:
    co.agents.create(MENDER)

    co.submit(
        Plan([Task("a", {"agent": "default", "prompt": "x"})], project=ProjectRef(name="shop", path=str(tmp_path)))
    )

    assert co.agents.record("dave/vc").open == 1
    with refuses(Refused):
        co.agents.delete("dave/vc")
    assert names(co) == ["dave/vc"]


def test_what_was_exported_is_imported_all_of_it_or_nothing(co: Coordination) -> None:
    co.agents.create(MENDER)
    co.agents.clone("dave/vc", "ann")
    document = co.agents.export()
    co.agents.delete("ann")
    co.agents.change("dave/vc", model="other")

    imported = co.agents.import_(document)

    assert [agent.profile.name for agent in imported] == ["ann", "dave/vc"]
    assert co.agents.export() == document
    assert co.agents.export("ann")["agents"] == document["agents"][:1]
    broken = {**document, "agents": [{"name": "new"}, {"name": "no name"}]}
    with refuses(Refused, field="name"):
        co.agents.import_(broken)
    assert co.agents.export() == document


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], None),
        ({"version": 2, "agents": []}, None),
        ({"version": 1, "agents": "x"}, None),
        ({"version": 1, "agents": [{"name": "a"}, {"name": "a", "model": "b"}]}, None),
    ],
)
def test_a_document_that_is_none_is_refused_in_one_sentence(co: Coordination, document: Any, field: str | None) -> None:
    with refuses(Refused, field=field):
        co.agents.import_(document)

    assert names(co) == []


def test_what_an_agent_cannot_be_is_refused_with_nothing_changed(co: Coordination) -> None:
    co.agents.create(MENDER)

    for act, error in (
        (lambda: co.agents.create(MENDER), Refused),
        (lambda: co.agents.create(Profile("two words")), Refused),
        (lambda: co.agents.change("dave/vc", runner={"agent": "nobody"}), Refused),
        (lambda: co.agents.change("dave/vc", colour="red"), Refused),
        (lambda: co.agents.change("dave/v", model="x"), NotFound),
        (lambda: co.agents.get("dave/v"), NotFound),
        (lambda: co.agents.export("dave/v"), NotFound),
    ):
        with pytest.raises(error):
            act()

    assert co.agents.get("dave/vc").profile == MENDER


def test_costs_budgets_limits_and_tasks_follow_an_agent_that_is_renamed(co: Coordination, tmp_path: Path) -> None:
    co.agents.create(MENDER)
    plan = Plan(
        [Task("a", {"agent": "dave/vc", "prompt": "x"})],
        project=ProjectRef(name="shop", path=str(tmp_path)),
        concurrency=Concurrency(agents={"dave/vc": 2}),
    )
    run = co.submit(plan)
    co.budgets.set("agent", "dave/vc", usd=5)
    spend(co, run, "dave/vc", "first")

    renamed = co.agents.rename("dave/vc", "dave/shop")
    spend(co, run, "dave/shop", "second")

    assert renamed.profile.name == "dave/shop"
    assert run.task("a").record.agent == "dave/shop"
    (budget,) = co.budgets.of("agent", "dave/shop")
    assert (budget.name, budget.spent.usd) == ("dave/shop", Decimal(2))
    assert co.budgets.of("agent", "dave/vc") == []
    assert [(one.key, one.cost_usd) for one in co.costs.summary(by="agent")] == [("dave/shop", Decimal(2))]
    assert co.agents.record("dave/shop").open == 1
    with co.runtime.store.read() as tx:
        limits = slots.list_slots(tx, co.runtime.workspace_id, run.record.project_id)
        ledger = {record.agent for record in costs.each(tx, co.runtime.workspace_id)}
    assert [limit["name"] for limit in limits] == ["agent:dave/shop"]
    assert ledger == {"dave/shop"}
    (event,) = co.agents.events("dave/shop")
    assert (event.type, event.subject_kind, event.payload) == (
        "renamed",
        "agent",
        {"from": "dave/vc", "to": "dave/shop"},
    )


def test_a_renamed_agents_old_name_is_free_for_another(co: Coordination) -> None:
    co.agents.create(MENDER)
    first = co.agents.rename("dave/vc", "ann")

    second = co.agents.create(Profile("dave/vc"))

    assert second.id != first.id
    assert names(co) == ["ann", "dave/vc"]
    with refuses(Refused):
        co.agents.rename("dave/vc", "ann")
    with refuses(NotFound):
        co.agents.rename("bob", "carl")


def test_an_agent_cannot_take_the_name_under_which_tasks_count_for_another(co: Coordination, tmp_path: Path) -> None:
    co.agents.create(MENDER)
    co.submit(Plan([Task("a", {"shell": "true"}, agent="bo")], project=ProjectRef(name="shop", path=str(tmp_path))))

    with refuses(Refused):
        co.agents.rename("dave/vc", "bo")


def spend(co: Coordination, run: Run, agent: str, name: str) -> None:
    """Record one dollar of an agent in the run."""
    of_run = {"project_id": run.record.project_id, "session_id": run.record.session_id, "run_id": run.id}
    record = CostRecord(
        id=name,
        **of_run,
        task_id=None,
        attempt=None,
        agent=agent,
        model="m",
        input_tokens=1,
        output_tokens=1,
        cached_input_tokens=0,
        total_tokens=2,
        cost_usd=Decimal(1),
        stale=False,
        occurred_at=datetime.now(UTC),
    )
    co.runtime.store.transact(lambda tx: ledger_service.append_records(tx, co.runtime.workspace_id, [record]))
