"""Test that reported tasks get at most their finder's authority, checked when they are added, with stored values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from coordination.base.errors import PlanError
from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.money.budgets import BudgetScope
from coordination.domain.plans.plans import BudgetCap, Defaults, Supervision
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.store.queries.money import budgets
from coordination.store.queries.tasks import tasks
from tests.support.refusals import refuses
from tests.support.world import World

AGENT = {"agent": "claude", "prompt": "Mend it", "model": "haiku", "secrets": ["TEAM_KEY"]}
WORKTREE = {"kind": "git-worktree", "base": "main"}


def report(world: World, finder: str, key: str = "x", *, run: Any = None, **fields: Any) -> None:
    """Add what the running *finder* reports to its run."""
    one = DiscoveredTask({"key": key, "run": run or {"shell": "true"}, **fields})
    attempt = world.claims[finder].attempt
    world.store.transact(lambda tx: add_tasks_of_attempt(tx, world.workspace, world.ids[finder], attempt, [one]))
    learn(world)


def learn(world: World) -> None:
    with world.store.read() as tx:
        world.ids |= {task.key: task.id for task in tasks.of_run(tx, world.workspace, world.run_id)}


@pytest.mark.parametrize(
    ("finder", "task", "field"),
    [
        ({}, {"workdir": "/srv"}, "workdir"),
        ({}, {"workdir": ".."}, "workdir"),
        ({"workdir": "api"}, {"workdir": "/srv/shop"}, "workdir"),
        ({}, {"run": AGENT}, "run"),
        ({}, {"run": {"shell": "x", "env": {"PATH": "/srv/shop"}}}, "run.env"),
        ({}, {"timeout": "5h"}, "timeout"),
        ({"limits": {"files": 64}}, {"limits": {"files": 128}}, "limits"),
        ({}, {"agent": "bob"}, "agent"),
        ({}, {"concurrency_key": "merge coord/run"}, "concurrency_key"),
        ({}, {"checkout": {"kind": "git-worktree", "base": "main"}}, "checkout"),
        ({"checkout": WORKTREE}, {"checkout": "folder"}, "checkout"),
        ({"checkout": WORKTREE}, {"checkout": {**WORKTREE, "base": "other"}}, "checkout"),
        (
            {"checkout": WORKTREE},
            {"checkout": {**WORKTREE, "merge": {"commit": "a" * 40, "task": "a"}}},
            "checkout.merge",
        ),
        ({"run": AGENT}, {"run": {**AGENT, "secrets": ["TEAM_KEY", "OTHER_KEY"]}}, "run.secrets"),
        ({"run": AGENT}, {"run": {**AGENT, "command": ["sh"]}}, "run.command"),
        ({"run": AGENT}, {"run": {**AGENT, "account": "claude@work"}}, "run.account"),
        ({"run": {**AGENT, "account": "claude@work"}}, {"run": AGENT}, "run.account"),
        ({"run": AGENT}, {"run": AGENT, "max_starts": 21}, "max_starts"),
        ({"max_attempts": 3}, {"max_attempts": 4}, "max_attempts"),
        ({"priority": 5}, {"priority": 6}, "priority"),
        ({"priority": -5}, {"priority": 1}, "priority"),
        ({"budget": BudgetCap(usd=Decimal(1))}, {"budget": {"usd": 2}}, "budget"),
    ],
)
def test_a_report_beyond_the_rights_of_its_job_is_refused_and_changes_nothing(
    world: World, finder: dict[str, Any], task: dict[str, Any], field: str
) -> None:
    if "limits" in finder:
        finder = {**finder, "limits": Limits(**finder["limits"])}
    world.submit("a", tasks={"a": finder})
    world.claim("a")

    with refuses(PlanError, field=f"tasks.x.{field}"):
        report(world, "a", **task)

    learn(world)
    assert set(world.ids) == {"a"}


@pytest.mark.parametrize(
    ("finder", "task", "stored"),
    [
        ({}, {}, (0, 1)),
        ({"priority": 5, "max_attempts": 3}, {}, (0, 3)),
        ({"priority": 5, "max_attempts": 3}, {"priority": 5, "max_attempts": 1}, (5, 1)),
        ({"priority": -5}, {}, (-5, 1)),
        ({"priority": -5}, {"priority": -7}, (-7, 1)),
    ],
)
def test_it_runs_no_earlier_and_is_tried_no_more_often_than_its_finder(
    world: World, finder: dict[str, Any], task: dict[str, Any], stored: tuple[int, int]
) -> None:
    world.submit("a", tasks={"a": finder})
    world.claim("a")

    report(world, "a", **task)

    assert (world.task("x").priority, world.task("x").max_attempts) == stored


def test_a_variant_is_compared_too(world: World) -> None:
    world.submit("a", tasks={"a": {"run": AGENT}})
    world.claim("a")

    with refuses(PlanError, field="tasks.x/2.run.agent"):
        report(world, "a", run=AGENT, variants=[{}, {"agent": "codex"}])


def test_what_is_reported_in_turn_is_bounded_by_the_whole_chain(world: World) -> None:
    world.submit("a", tasks={"a": {"workdir": "api"}})
    world.claim("a")
    report(world, "a", "b", workdir="v2")
    world.claim("b")

    for place in ("/srv/shop/api", "/srv/shop", "../v3"):
        with refuses(PlanError, field="tasks.c.workdir"):
            report(world, "b", "c", workdir=place)
    report(world, "b", "c", workdir="deep")

    assert world.task("c").authority["folders"] == ["/srv/shop/api", "/srv/shop/api/v2"]
    assert world.task("c").workdir == "/srv/shop/api/v2/deep"


def test_the_plans_default_account_is_for_agents_that_are_put_to_work_later_too(world: World) -> None:
    looks = Supervision(assess={"agent": "claude"}, analyze={"agent": "codex"})
    chat = {"chat": "openai:gpt-5-mini", "prompt": "x"}
    tasks = {"a": {"run": AGENT}, "b": {"run": {**AGENT, "account": "claude@max2"}}, "c": {"run": chat}}
    world.submit("a", "b", "c", tasks=tasks, defaults=Defaults(account="claude@work"), supervision=looks)
    world.claim("a/assess")
    assert world.task("a/work").work["account"] == world.task("a/assess").work["account"] == "claude@work"
    assert world.task("b/work").work["account"] == "claude@max2"
    assert "account" not in world.task("a").work | world.task("c/work").work

    report(world, "a/assess", run=world.task("a/assess").work)

    accounts = {key: world.task(key).work.get("account") for key in ("x/assess", "x/work", "x")}
    assert accounts == {"x/assess": "claude@work", "x/work": "claude@work", "x": None}
    assert [one.account for one in world.attempts("a/assess")] == ["claude@work"]


def test_gates_and_limits_are_added_to_those_of_the_finder_and_never_taken_away(world: World) -> None:
    finder = {"run": AGENT, "gates": ["make test"], "limits": Limits(memory=1_000, files=64)}
    world.submit("a", tasks={"a": finder})
    world.claim("a")

    report(world, "a", run=AGENT, gates=["true"], limits={"files": 32})

    options = world.task("x").options
    assert options["gates"] == ["make test", "true"]
    assert options["limits"] == {"memory": 1_000, "files": 32}


def test_it_has_the_budget_and_the_agent_of_its_finder(world: World) -> None:
    world.submit("a", tasks={"a": {"run": AGENT, "agent": "ann", "budget": BudgetCap(usd=Decimal(2), tokens=50)}})
    world.claim("a")

    report(world, "a", run=AGENT)
    report(world, "a", "y", run=AGENT, budget={"usd": 1, "on_exceed": "warn"})

    with world.store.read() as tx:
        (x,), (y,) = (budgets.of_subject(tx, world.workspace, BudgetScope.TASK, world.ids[key]) for key in ("x", "y"))
    assert (x.usd, x.tokens, world.task("x").agent) == (2, 50, "ann")
    assert (y.usd, y.tokens, y.action.value) == (1, 50, "block")


def test_a_supervised_job_reports_supervised_work(world: World) -> None:
    world.submit("a", tasks={"a": {"run": AGENT}}, supervision=Supervision(assess={"agent": "codex"}))
    world.do("a/assess", output={"strategy": "s"})
    world.claim("a")

    with refuses(PlanError, field="tasks.x.supervised"):
        report(world, "a", run=AGENT, supervised=False)
    report(world, "a", run=AGENT)

    assert world.task("x/assess").work["agent"] == "codex"


def test_the_work_that_a_judge_sends_back_is_that_of_the_plan_and_its_own_reports_are_its_own(world: World) -> None:
    world.submit("a", tasks={"a": {"run": AGENT}}, supervision=Supervision(analyze={"agent": "gemini"}))
    world.do("a/work")
    world.claim("a")

    with refuses(PlanError, field="tasks.x/work.run.agent"):
        report(world, "a", run=AGENT)
    world.finish("a", discovered=(DiscoveredTask({"key": "a/more", "run": AGENT}, by_system=True),))

    learn(world)
    assert world.task("a/more/work").work["agent"] == "claude"


def test_a_job_is_compared_as_it_ran_and_templates_stand_for_nothing_else(world: World) -> None:
    shown = {**AGENT, "args": ["--add-dir", "{{ input.place }}"]}
    world.submit("a", tasks={"a": {"run": shown, "input": {"place": "docs"}}})
    world.claim("a")
    ran = {**AGENT, "args": ["--add-dir", "docs"]}

    def find(key: str, run: Any, **more: Any) -> None:
        one = DiscoveredTask({"key": key, "run": run, **more}, work=ran)
        world.store.transact(lambda tx: add_tasks_of_attempt(tx, world.workspace, world.ids["a"], 1, [one]))

    find("same", ran)
    with refuses(PlanError, field="tasks.other.run.args"):
        find("other", shown, input={"place": "/"})
