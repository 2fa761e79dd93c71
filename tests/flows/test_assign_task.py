"""Test that a person reassigns a waiting task: to another agent, another model, or a person."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.base.errors import PlanError, Refused
from coordination.domain.agents.agents import PERSON, Profile
from coordination.domain.plans.plans import Supervision
from coordination.domain.tasks.attempts import DiscoveredTask, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.flows.tasks.assign_task import Assignment, assign_task
from coordination.services.agents import agents
from coordination.services.projects import projects as project_service
from coordination.services.tasks import questions
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import events, tasks
from coordination.store.queries.tasks import questions as question_rows
from tests.support.refusals import refuses
from tests.support.world import World

AGENT = {"agent": "claude", "prompt": "Mend it", "args": ["--verbose"], "secrets": ["TEAM_KEY"], "model": "haiku"}
CHAT = {"chat": "openai:gpt-5-mini", "prompt": "Look"}


@pytest.fixture
def crew(world: World) -> World:
    profiles = [
        Profile("bob", runner={"agent": "codex", "args": ["-x"]}, model="gpt-5", identity={"role": "reviewer"}),
        Profile("amy", runner={"agent": "claude"}, identity={"role": "author"}),
        Profile("idle", runner={"agent": "claude"}, active=False),
    ]
    for profile in profiles:
        world.store.transact(lambda tx, one=profile: agents.create(tx, world.workspace, one))
    return world


def assign(world: World, key: str, to: str | None = None, **more: Any) -> Assignment:
    return world.store.transact(
        lambda tx: assign_task(tx, world.workspace, world.ids[key], actor="user:ann", to=to, **more)
    )


def story(world: World, key: str) -> list[dict[str, Any]]:
    with world.store.read() as tx:
        rows = events.tail(tx, world.workspace, task_id=world.ids[key])
    return [event.payload for event in rows if event.type is EventType.ASSIGNED]


def waiting(world: World) -> list[str]:
    with world.store.read() as tx:
        return [one.question for one in question_rows.list_unanswered(tx, world.workspace)]


def test_another_agent_does_it_with_the_same_prompt_and_its_own_arguments(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})

    assign(crew, "a", "bob")

    task = crew.task("a")
    assert task.agent == "bob"
    assert task.work == {
        "agent": "codex",
        "prompt": "You are bob.\nYour role: reviewer\n\nMend it",
        "args": ["-x"],
        "secrets": ["TEAM_KEY"],
        "model": "gpt-5",
    }
    assert story(crew, "a") == [{"agent": "bob", "model": "gpt-5"}]
    assign(crew, "a", "role:author", model="opus")
    assert (
        crew.task("a").work["prompt"] == "You are amy.\nYour role: author\n\nMend it"
    )  # no role with that value is left
    assert (crew.task("a").agent, crew.task("a").work["model"]) == ("amy", "opus")
    assign(crew, "a", "gemini")
    assert (crew.task("a").agent, crew.task("a").work["prompt"]) == (None, "Mend it")
    assert crew.claim("a") == ["a"]
    assert crew.claims["a"].work["agent"] == "gemini"


@pytest.mark.parametrize(
    ("run", "model", "field", "becomes"),
    [
        (AGENT, "opus", "model", "opus"),
        (CHAT, "gpt-5", "chat", "openai:gpt-5"),
        (CHAT, "anthropic:claude-haiku-4-5", "chat", "anthropic:claude-haiku-4-5"),
    ],
)
def test_another_model_does_it(crew: World, run: dict[str, Any], model: str, field: str, becomes: str) -> None:
    crew.submit("a", "b < a", tasks={"b": {"run": run, "agent": "team"}})

    assign(crew, "b", model=model)

    assert (crew.task("b").work[field], crew.task("b").agent) == (becomes, "team")
    assert crew.task("b").state is TaskState.BLOCKED  # by its dependencies


def test_a_conversation_of_another_agent_is_not_gone_on_with(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT, "max_attempts": 3}})
    crew.claim("a")
    crew.finish("a", Outcome.DEFERRED, carry_over={"conversation": {"session": "x"}, "feedback": "not yet"})

    assign(crew, "a", "bob")

    assert crew.task("a").carried_over == {"feedback": "not yet"}


def test_a_person_does_it_and_their_answer_can_be_taken_back(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})

    assign(crew, "a", person="ann")

    task = crew.task("a")
    assert (task.state, task.reasons, task.agent) == (TaskState.BLOCKED, BlockReason.QUESTION, "ann")
    assert task.options[PERSON] == "ann"
    assert waiting(crew) == ["For ann: Mend it"]
    assign(crew, "a", person="bea")
    assert waiting(crew) == ["For bea: Mend it"]

    assert assign(crew, "a", "bob").ready == 1

    assert crew.task("a").state is TaskState.QUEUED
    assert PERSON not in crew.task("a").options
    assert waiting(crew) == []


def test_what_waits_with_a_question_may_be_given_to_a_person(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    crew.claim("a")
    crew.finish("a", question="Which?")

    assign(crew, "a", "bob")

    assert waiting(crew) == ["Which?"]  # the other agent waits for the answer, too
    assign(crew, "a", person="ann")
    assert waiting(crew) == ["For ann: You are bob.\nYour role: reviewer\n\nMend it"]
    crew.store.transact(lambda tx: questions.answer(tx, crew.workspace, crew.task("a"), "x", by="user:ann"))


def test_what_a_job_reported_may_do_what_a_person_gives_it(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    crew.claim("a")
    one = DiscoveredTask({"key": "x", "run": AGENT}, work=crew.claims["a"].work)
    crew.store.transact(lambda tx: add_tasks_of_attempt(tx, crew.workspace, crew.ids["a"], 1, [one]))
    with crew.store.read() as tx:
        crew.ids |= {task.key: task.id for task in tasks.of_run(tx, crew.workspace, crew.run_id)}

    assign(crew, "x", "bob")

    assert crew.task("x").authority["work"]["agent"] == "codex"
    assert crew.claim("x") == ["x"]


@pytest.mark.parametrize(
    ("to", "more", "field"),
    [
        (None, {}, "to"),
        (None, {"person": " "}, "to"),
        ("bob", {"person": "ann"}, "person"),
        ("nobody", {}, "to"),
        ("idle", {}, None),
        ("role:cook", {}, None),
    ],
)
def test_who_is_nobody_is_refused(crew: World, to: str | None, more: dict[str, Any], field: str | None) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    before = crew.task("a")

    with refuses(Refused, field=field):
        assign(crew, "a", to, **more)

    assert crew.task("a") == before


def test_what_runs_has_ended_looks_at_others_or_is_a_command_is_refused(crew: World) -> None:
    crew.submit("a", "b", "c", tasks={"a": {"run": AGENT}, "b": {"run": AGENT}}, supervision=None)
    crew.claim("a")
    crew.do("b")
    for key, field in (("a", None), ("b", None), ("c", "to")):
        with refuses(Refused, field=field):
            assign(crew, key, "bob")
    crew.submit("d", tasks={"d": {"run": AGENT}}, supervision=Supervision(analyze={"agent": "claude"}))
    with refuses(Refused):
        assign(crew, "d", "bob")
    assign(crew, "d/work", "bob")
    assign(crew, "c", person="ann")


def test_a_model_that_the_project_does_not_allow_is_refused(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})

    def restrict(tx: Any) -> None:
        project = projects.get(tx, crew.workspace, crew.project_id)
        assert project is not None
        project_service.amend(tx, crew.workspace, project, merged={"model_restrictions": {"deny": ["*opus*"]}})

    crew.store.transact(restrict)
    with refuses(PlanError, field="tasks.a.run"):
        assign(crew, "a", model="claude-opus-4-8")
