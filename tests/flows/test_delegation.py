"""Test that a job delegates to an agent with at most its own rights, with the whole chain, within the depth limit."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.base.errors import PlanError, Refused
from coordination.domain.access.authority import DELEGATED_BY, delegators
from coordination.domain.agents.agents import Profile
from coordination.domain.plans.plan_expansion import SUPERVISION
from coordination.domain.plans.plans import Supervision
from coordination.domain.tasks.attempts import DiscoveredTask
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import TaskState
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.services.agents import agents
from coordination.services.plans.add_discovered_tasks import DEEPEST
from coordination.services.projects import projects as project_service
from coordination.services.tasks import questions
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import events, runs, tasks
from coordination.store.queries.tasks import questions as rows
from tests.support.refusals import refuses
from tests.support.world import World

AGENT = {"agent": "claude", "prompt": "Mend it", "args": ["--verbose"], "secrets": ["TEAM_KEY"]}


@pytest.fixture
def crew(world: World) -> World:
    """Provide two agents: bob has the job's rights and another model; eve has more rights."""
    alike = {"agent": "claude", "args": ["--verbose"], "secrets": ["TEAM_KEY"]}
    profiles = [
        Profile("bob", runner=alike, model="opus", identity={"role": "reviewer"}),
        Profile("eve", runner={"agent": "codex"}),
        Profile("ann", runner={**alike, "secrets": ["TEAM_KEY", "OTHER_KEY"]}),
    ]
    for profile in profiles:
        world.store.transact(lambda tx, one=profile: agents.create(tx, world.workspace, one))
    return world


def delegate(world: World, finder: str, key: str = "x", *, to: str = "bob", first: bool = False, **more: Any) -> None:
    task = {"key": key, "run": {"agent": to, "prompt": "Look at it"}, **more}
    one = DiscoveredTask(task, blocks_finder=first, work=world.claims[finder].work, delegated=True)
    attempt = world.claims[finder].attempt
    world.store.transact(lambda tx: add_tasks_of_attempt(tx, world.workspace, world.ids[finder], attempt, [one]))
    learn(world)


def learn(world: World) -> None:
    with world.store.read() as tx:
        world.ids |= {task.key: task.id for task in tasks.of_run(tx, world.workspace, world.run_id)}


def trust(world: World, *names: str) -> None:
    def change(tx: Any) -> None:
        project = projects.get(tx, world.workspace, world.project_id)
        assert project is not None
        project_service.amend(tx, world.workspace, project, merged={"settings": {"delegates": list(names)}})

    world.store.transact(change)


def story(world: World, key: str, type_: EventType) -> list[dict[str, Any]]:
    with world.store.read() as tx:
        rows_of_task = events.tail(tx, world.workspace, task_id=world.ids[key])
    return [event.payload for event in rows_of_task if event.type is type_]


def test_a_delegated_task_is_the_other_agents_and_says_by_whom(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT, "agent": "amy"}})
    crew.claim("a")

    delegate(crew, "a")
    delegate(crew, "a")  # a call that was repeated

    task = crew.task("x")
    assert (task.agent, task.work["model"], task.creator) == ("bob", "opus", "task:a")
    assert task.options[DELEGATED_BY] == [{"task": "a", "agent": "amy"}]
    assert task.authority["agent"] == "bob"
    assert story(crew, "x", EventType.CREATED) == [{"found_by": "a", "delegated": True}]
    assert story(crew, "x", EventType.ASSIGNED) == [{"agent": "bob"}]
    assert crew.claim("x") == ["x"]  # its rights are checked again there


def test_the_chain_is_kept_and_ends_where_found_work_does(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    before = "a"
    for number in range(DEEPEST):
        crew.claim(before)
        delegate(crew, before, f"x{number}")
        before = f"x{number}"

    assert delegators(crew.task(before).options) == ["x3 (bob)", "x2 (bob)", "x1 (bob)", "x0 (bob)", "a"]
    crew.claim(before)
    with refuses(Refused):
        delegate(crew, before, "more")


def test_who_was_given_work_by_role_is_chosen(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    crew.claim("a")

    delegate(crew, "a", to="role:reviewer")

    assert crew.task("x").agent == "bob"


@pytest.mark.parametrize(
    ("finder", "to", "more", "field"),
    [
        (AGENT, "eve", {}, "run.agent"),
        (AGENT, "ann", {}, "run.secrets"),
        (AGENT, "codex", {}, "run.agent"),
        ({**AGENT, "args": ["--permission-mode", "plan"]}, "bob", {}, "run.args"),
        ({"shell": "true"}, "bob", {}, "run"),
        (AGENT, "bob", {"timeout": "50h"}, "timeout"),
        (AGENT, "bob", {"workdir": "/"}, "workdir"),
        (AGENT, "nobody", {}, "run.agent"),
    ],
)
def test_an_agent_that_may_use_more_gets_nothing_from_a_job(
    crew: World, finder: dict[str, Any], to: str, more: dict[str, Any], field: str
) -> None:
    crew.submit("a", tasks={"a": {"run": finder}})
    crew.claim("a")

    with refuses(PlanError, field=f"tasks.x.{field}"):
        delegate(crew, "a", to=to, **more)

    learn(crew)
    assert set(crew.ids) == {"a"}


def test_a_person_may_let_jobs_give_work_to_an_agent_that_may_use_more(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    trust(crew, "eve")
    crew.claim("a")

    delegate(crew, "a", to="eve")

    assert (crew.task("x").work["agent"], crew.task("x").agent) == ("codex", "eve")
    assert crew.claim("x") == ["x"]
    with refuses(PlanError, field="tasks.y.timeout"):
        delegate(crew, "a", "y", to="eve", timeout="50h")  # the rules of all discovered tasks apply to it


def test_whom_a_project_trusts_is_a_list_of_names(crew: World) -> None:
    crew.submit("a")
    with refuses(Refused, field="delegates"):
        trust(crew, "")


def test_what_comes_first_is_waited_for(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}})
    crew.claim("a")
    task = {"key": "x", "run": {"agent": "bob", "prompt": "Look"}}
    crew.finish("a", discovered=(DiscoveredTask(task, blocks_finder=True, work=crew.claims["a"].work, delegated=True),))
    learn(crew)

    assert crew.task("a").state is TaskState.BLOCKED
    crew.do("x")
    assert crew.task("a").state is TaskState.QUEUED


def test_a_supervised_delegated_task_keeps_the_chain_where_the_work_is_done(crew: World) -> None:
    crew.submit("a", tasks={"a": {"run": AGENT}}, supervision=Supervision(analyze={"agent": "gemini"}))
    crew.claim("a/work")

    delegate(crew, "a/work")

    assert crew.task("x/work").options[DELEGATED_BY] == [{"task": "a/work"}]
    assert crew.task("x/work").agent == "bob"
    assert DELEGATED_BY not in crew.task("x").options  # that is the supervisor, which the plan chose


def escalate(world: World, key: str = "a") -> None:
    world.claim(key)
    world.finish(key, question="May I delete the table?", escalated=True)
    learn(world)


def test_an_escalation_waits_with_the_questions_and_is_answered_as_they_are(world: World) -> None:
    world.submit("a", "b", tasks={"a": {"run": AGENT}, "b": {"run": AGENT}})
    world.claim("b")
    world.finish("b", question="Which?")
    escalate(world)

    with world.store.read() as tx:
        waiting = rows.list_unanswered(tx, world.workspace)
    assert [(one.key, one.escalated) for one in waiting] == [("b", False), ("a", True)]
    assert story(world, "a", EventType.ESCALATED) == [{"why": "May I delete the table?"}]
    world.store.transact(lambda tx: questions.answer(tx, world.workspace, world.task("a"), "no", by="user:ann"))
    assert world.task("a").state is TaskState.QUEUED


@pytest.mark.parametrize("who", ["analyze", "assess"])
def test_an_escalation_wakes_the_supervisor_of_the_run_and_not_who_answers_questions(world: World, who: str) -> None:
    world.submit(
        "a",
        tasks={"a": {"run": AGENT, "supervised": False}},
        questions={"agent": "gemini"},
        supervision=Supervision(**{who: {"agent": "codex"}}),
    )
    with world.store.read() as tx:
        assert SUPERVISION in runs.metadata_of(tx, world.workspace, world.run_id)

    escalate(world)

    assert world.task("a/answer").work["agent"] == "codex"
    assert world.task("a/answer").options["role"]["question"] == "May I delete the table?"
    world.claim("a/answer")
    world.finish("a/answer", output={"answer": "no"})
    assert world.task("a").state is TaskState.QUEUED


def test_an_escalation_without_a_supervisor_is_left_to_a_person(world: World) -> None:
    world.submit("a", tasks={"a": {"run": AGENT}}, questions={"agent": "gemini"})

    escalate(world)

    assert set(world.ids) == {"a"}
    assert world.task("a").state is TaskState.BLOCKED
