"""Test that a task whose model its project forbids waits, with a reason, and starts when the rule is changed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.explanations import TaskExplanation
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.projects.change_project import change_project
from coordination.flows.tasks.explain_task import explain_task
from coordination.flows.tasks.find_obstacles import find_obstacles
from coordination.services.projects import projects
from coordination.store.queries.tasks import events
from tests.support.world import World, watched

CHAT = {"run": {"chat": "openai:gpt-5", "prompt": "x"}}
TEMPLATED = {"run": {"chat": "openai:{{ input.model }}", "prompt": "x"}, "input": {"model": "gpt-5"}}
FORBIDDEN = "the project does not allow the model 'openai:gpt-5' (denied: openai:*)"


@pytest.fixture
def shop(world: World) -> World:
    """Provide one chat and one command, submitted while everything was allowed."""
    world.submit("chat", "command", tasks={"chat": CHAT})
    return world


def restrict(world: World, **rules: Any) -> int:
    def change(tx: Any) -> int:
        project = projects.find(tx, world.workspace, "shop")
        return change_project(tx, world.workspace, project, actor="ann", merged={"model_restrictions": rules})

    return world.store.transact(change)


def explained(world: World, key: str) -> TaskExplanation:
    with world.store.read() as tx:
        return explain_task(tx, world.workspace, world.task(key), live_within=timedelta(minutes=1))


def test_a_forbidden_model_holds_its_task_and_no_other(shop: World) -> None:
    restrict(shop, deny=["openai:*"])

    assert shop.claim("chat", "command") == ["command"]

    task = shop.task("chat")
    assert (task.state, task.reasons, task.attempt) == ("blocked", BlockReason.MODEL, 0)
    with shop.store.read() as tx:
        last = events.tail(tx, shop.workspace, task_id=shop.ids["chat"])[-1]
    assert (last.type, last.payload) == ("blocked", {"reasons": ["model"], "why": FORBIDDEN})


def test_an_explanation_names_the_rule_and_the_command_that_lifts_it(shop: World) -> None:
    restrict(shop, deny=["openai:*"])
    before = explained(shop, "chat").blockers
    shop.claim("chat")

    (blocker,) = explained(shop, "chat").blockers

    assert before == (blocker,), "it is said before a worker meets it, too"
    assert (blocker.kind, blocker.detail) == ("model", FORBIDDEN)
    assert [step.command for step in blocker.steps] == [
        "coord projects show shop",
        "coord projects change shop --models deny=null",
    ]


def test_a_run_of_such_tasks_stands_still_until_a_person_acts(shop: World) -> None:
    restrict(shop, deny=["openai:*"])
    shop.claim("chat")
    shop.do("command")

    with shop.store.read() as tx:
        (obstacle,) = find_obstacles(
            tx, shop.workspace, shop.project_id, shop.run_id, live_within=timedelta(minutes=1), needs_worker=False
        )

    assert (obstacle.kind, obstacle.keys, obstacle.lasts) == ("model", ("chat",), True)
    assert obstacle.sentence.startswith("the project does not allow the model of chat; ")
    assert obstacle.sentence.endswith("; allow it with: coord projects change shop --models deny=null")


def test_the_task_goes_on_when_the_rule_is_changed(shop: World) -> None:
    restrict(shop, deny=["openai:*"])
    shop.claim("chat")

    assert restrict(shop, deny=["anthropic:*"]) == 1

    assert shop.claim("chat") == ["chat"]


def test_a_rule_that_still_forbids_it_holds_it_again(shop: World) -> None:
    restrict(shop, deny=["openai:*"])
    shop.claim("chat")

    restrict(shop, deny=["openai:gpt-*"])

    assert (shop.claim("chat"), shop.states(["chat"])) == ([], {"chat": "blocked"})


def test_other_changes_of_the_project_lift_nothing(shop: World) -> None:
    restrict(shop, deny=["openai:*"])
    shop.claim("chat")

    def describe(tx: Any) -> int:
        project = projects.find(tx, shop.workspace, "shop")
        return change_project(tx, shop.workspace, project, actor="ann", description="It sells.")

    assert shop.store.transact(describe) == 0
    assert shop.states(["chat"]) == {"chat": "blocked"}


def test_a_rule_that_nobody_understands_lets_nothing_begin(shop: World) -> None:
    shop.sql("UPDATE projects SET model_restrictions = '{\"only\": 5}'")

    assert shop.claim("chat") == []

    (blocker,) = explained(shop, "chat").blockers
    assert "is invalid: Restrictions of models have no 'only'" in blocker.detail
    assert blocker.steps[-1].command == "coord projects change shop --models only=null"


def test_a_transaction_that_may_not_wait_leaves_the_task_as_it_is(shop: World) -> None:
    restrict(shop, deny=["openai:*"])

    assert shop.claim("chat", wait=False) == []

    assert shop.states(["chat"]) == {"chat": "queued"}


def test_a_command_is_claimed_by_the_same_statements_as_without_the_rule(shop: World) -> None:
    shop.submit("free")
    with watched(shop.store) as before:
        assert shop.claim("free") == ["free"]
    restrict(shop, deny=["openai:*"])

    with watched(shop.store) as seen:
        assert shop.claim("command") == ["command"]

    assert [statement for statement, _ in seen] == [statement for statement, _ in before]
    assert len(seen) == (1 if shop.store.dialect == "postgresql" else 5), "on SQLite with BEGIN IMMEDIATE"


def test_a_model_that_a_template_named_holds_its_task_after_the_attempt_that_found_out(world: World) -> None:
    world.submit("a", tasks={"a": TEMPLATED})
    restrict(world, deny=["openai:*"])
    assert world.claim("a") == ["a"], "only the worker can fill it in"

    rendered = {"chat": "openai:gpt-5", "prompt": "x"}
    world.finish("a", Outcome.DEFERRED, error=FORBIDDEN, job_started=False, forbidden_work=rendered)

    task = world.task("a")
    assert (task.state, task.reasons, task.failures, task.deferrals) == ("blocked", BlockReason.MODEL, 0, 0)
    assert explained(world, "a").blockers[0].detail == FORBIDDEN
    restrict(world, deny=None)
    assert world.claim("a") == ["a"]
