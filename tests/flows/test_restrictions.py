"""Test models that a project forbids: refused in submissions, simulations and discovered tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordination.base.errors import PlanError, Refused
from coordination.domain.plans.plans import Supervision
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.flows.forecast.simulate_plan import simulate_plan
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.formats.plan import read_plan
from coordination.services.projects import projects as project_service
from tests.support.refusals import refuses
from tests.support.world import World

HAIKU = {"run": {"agent": "claude", "model": "claude-haiku-4-5", "prompt": "Mend it"}}
OPUS = {"run": {"agent": "claude", "model": "claude-opus-4-1", "prompt": "Mend it"}}


@pytest.fixture
def shop(world: World) -> World:
    world.submit("a")
    return world


def restrict(world: World, **said: Any) -> None:
    def change(tx: Any) -> None:
        project = project_service.find(tx, world.workspace, "shop")
        project_service.amend(tx, world.workspace, project, merged={"model_restrictions": said})

    world.store.transact(change)


def tasks(world: World) -> int:
    return len(world.sql("SELECT id FROM tasks"))


def test_a_model_with_brackets_in_its_name_is_denied_and_allowed_by_that_name(shop: World) -> None:
    long = {"run": {"agent": "claude", "model": "claude-sonnet-4-5[1m]", "prompt": "Mend it"}}
    restrict(shop, deny=["claude-sonnet-4-5[1m]"])
    with refuses(PlanError, field="tasks.b.run"):
        shop.submit("b", tasks={"b": long})

    restrict(shop, allow=["claude-sonnet-4-5[1m]"], deny=None)
    shop.submit("b", tasks={"b": long})


def test_a_plan_is_refused_with_the_line_of_its_task_and_what_is_allowed(shop: World) -> None:
    restrict(shop, allow=["claude-*"], deny=["*opus*"])
    text = b"""version: 1
tasks:
  - {key: ok, run: {agent: claude, model: claude-haiku-4-5, prompt: x}}
  - key: bad
    run: {agent: claude, model: claude-opus-4-1, prompt: x}
"""
    plan, before = read_plan(text, source="plan.yaml"), tasks(shop)

    with refuses(PlanError, field="tasks.bad.run", line=4) as refused:
        shop.submit_plan(plan)

    assert refused.value.source == "plan.yaml"
    assert tasks(shop) == before
    with refuses(PlanError, field="tasks.bad.run", line=4), shop.store.read() as tx:
        simulate_plan(tx, shop.workspace, plan, shop.project, slots=1, live_within=timedelta(1), default_slots=1)
    shop.submit("b", "c", tasks={"b": HAIKU, "c": {"run": {"shell": "ls"}}})


def test_variants_and_supervisors_are_looked_at_too(shop: World) -> None:
    restrict(shop, deny=["*opus*"])

    with refuses(PlanError, field="tasks.fix/2.run"):
        shop.submit("fix", tasks={"fix": {**HAIKU, "variants": [{}, {"model": "opus"}]}})
    with refuses(PlanError, field="tasks.fix/assess.run"):
        shop.submit("fix", tasks={"fix": HAIKU}, supervision=Supervision(assess={"agent": "claude", "model": "opus"}))


def test_a_found_task_is_refused_and_nothing_of_it_stored(shop: World) -> None:
    shop.submit("finder", tasks={"finder": HAIKU})
    shop.claim("finder")
    restrict(shop, deny=["*opus*"])
    before = tasks(shop)

    def find(**task: Any) -> None:
        discovered = (DiscoveredTask({"key": "found", **task}),)
        shop.store.transact(lambda tx: add_tasks_of_attempt(tx, shop.workspace, shop.ids["finder"], 1, discovered))

    with refuses(PlanError, field="tasks.found.run"):
        find(**OPUS)
    assert tasks(shop) == before
    find(**HAIKU)
    assert tasks(shop) == before + 1


def test_what_cannot_be_understood_is_refused_when_it_is_said(shop: World) -> None:
    with refuses(Refused, field="allow"):
        restrict(shop, allow="claude-*")
    with refuses(Refused, field="allow"):
        restrict(shop, allow=[])

    restrict(shop, allow=["claude-*"])
    with refuses(Refused, field="denied"):
        restrict(shop, denied=["x"])
    restrict(shop, allow=None)

    shop.submit("b", tasks={"b": OPUS})


def test_what_was_stored_before_it_was_checked_refuses_plans_until_it_is_mended(shop: World) -> None:
    shop.sql("UPDATE projects SET model_restrictions = '{\"only\": 5}'")

    with refuses(Refused, field="only"):
        shop.submit("b", tasks={"b": OPUS})
    restrict(shop, only=None)

    shop.submit("b", tasks={"b": OPUS})


def test_an_agent_by_name_counts_with_its_own_model(shop: World) -> None:
    from coordination.domain.agents.agents import Profile
    from coordination.services.agents import agents

    profile = Profile("bo", runner={"agent": "claude"}, model="claude-opus-4-1")
    shop.store.transact(lambda tx: agents.create(tx, shop.workspace, profile))
    restrict(shop, deny=["*opus*"])

    with refuses(PlanError, field="tasks.b.run"):
        shop.submit("b", tasks={"b": {"run": {"agent": "bo", "prompt": "x"}}})
