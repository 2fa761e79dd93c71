"""Test that an agent answers another's question once and within bounds, and that other questions go to a person."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.events import EventType
from coordination.flows.attempts import finish
from coordination.services.projects import projects as project_service
from coordination.services.tasks import questions
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks import events, tasks
from coordination.store.queries.tasks import questions as rows
from tests.support.refusals import refuses
from tests.support.world import World

WHO = {"agent": "claude"}
RUN = {"agent": "claude", "prompt": "Paint {{ task.key }}"}


def submit(world: World, *lines: str, **settings: Any) -> None:
    world.submit(*lines, tasks={"paint": {"run": RUN}}, **{"questions": WHO, **settings})


def learn(world: World) -> None:
    with world.store.read() as tx:
        world.ids |= {task.key: task.id for task in tasks.of_run(tx, world.workspace, world.run_id)}


def ask(world: World, key: str = "paint", question: str = "Which colour?") -> None:
    world.claim(key)
    world.finish(key, question=question)
    learn(world)


def answer(world: World, key: str = "paint/answer", **said: Any) -> None:
    world.claim(key)
    world.finish(key, output=said)


def questions_of(world: World, key: str = "paint") -> list[tuple[str | None, str | None]]:
    with world.store.read() as tx:
        return [(one.answer, one.answered_by) for one in rows.of_task(tx, world.workspace, world.ids[key])]


def by_person(world: World, text: str) -> None:
    world.store.transact(
        lambda tx: questions.answer(tx, world.workspace, world.task("paint"), text, by="user:ann")  # type: ignore[arg-type]
    )


def story(world: World, key: str, type_: EventType) -> list[tuple[str | None, dict[str, Any]]]:
    with world.store.read() as tx:
        rows_of_task = events.tail(tx, world.workspace, task_id=world.ids[key])
    return [(event.actor, event.payload) for event in rows_of_task if event.type is type_]


def test_who_asks_goes_on_with_the_agents_answer_and_the_story_says_whose_it_is(world: World) -> None:
    submit(world, "lint", "paint < lint")
    world.do("lint", output="a red door")
    ask(world)

    created = world.task("paint/answer")
    assert created.work == {"agent": "claude", "prompt": "Paint {{ '{{' }} task.key }}"}
    assert created.options["role"][ANSWER] == world.ids["paint"]
    assert (created.parent_id, created.creator) == (world.ids["paint"], "task:paint")
    assert world.states() == {"lint": "completed", "paint": "blocked", "paint/answer": "queued"}
    answer(world, answer="blue")

    assert world.states(["paint", "paint/answer"]) == {"paint": "queued", "paint/answer": "completed"}
    assert questions_of(world) == [("blue", "task:paint/answer")]
    payload = {"question": "Which colour?", "answer": "blue", "agent": "claude"}
    assert story(world, "paint", EventType.ANSWERED) == [("task:paint/answer", payload)]
    (claim,) = [world.claims["paint"] for _ in world.claim("paint")]
    assert claim.carried_over["answers"] == [{"question": "Which colour?", "answer": "blue", "by": "task:paint/answer"}]
    assert world.claims["paint/answer"].needs["lint"]["output"] == "a red door"


def test_what_it_cannot_answer_waits_for_a_person_and_says_so(world: World) -> None:
    submit(world, "paint")
    ask(world)

    answer(world, cannot="taste")

    assert world.states(["paint"]) == {"paint": "blocked"}
    assert questions_of(world) == [(None, None)]
    values = {"decision": "left to a person", "why": "taste"}
    assert story(world, "paint", EventType.PROGRESS) == [("task:paint/answer", values)]
    by_person(world, "red")
    assert world.states(["paint"]) == {"paint": "queued"}


@pytest.mark.parametrize("said", [{}, {"answer": 5}, {"answer": ""}])
def test_an_output_that_is_no_answer_changes_nothing(world: World, said: dict[str, Any]) -> None:
    submit(world, "paint")
    ask(world)

    answer(world, **said)  # a person may have forced it

    assert questions_of(world) == [(None, None)]


def test_a_person_may_be_first_and_a_late_answer_never_meets_another_question(world: World) -> None:
    submit(world, "paint")
    ask(world)
    by_person(world, "red")
    ask(world, question="Which brush?")

    answer(world, answer="blue")
    assert questions_of(world) == [("red", "user:ann"), (None, None)]
    answer(world, "paint/answer.2", answer="the broad one")

    assert questions_of(world) == [("red", "user:ann"), ("the broad one", "task:paint/answer.2")]
    assert len(story(world, "paint", EventType.ANSWERED)) == 2


def test_an_answer_to_who_waits_no_more_is_nothing(world: World) -> None:
    submit(world, "paint")
    ask(world)
    world.claim("paint/answer")
    world.cancel("paint")

    world.finish("paint/answer", output={"answer": "blue"})

    assert world.states(["paint"]) == {"paint": "canceled"}
    assert questions_of(world) == [(None, None)]


def test_who_is_retried_does_not_wait_for_an_answer_of_its_last_life(world: World) -> None:
    submit(world, "paint")
    ask(world)
    world.cancel("paint")

    world.retry("paint")

    assert world.states() == {"paint": "queued", "paint/answer": "queued"}
    answer(world, answer="blue")
    world.do("paint")
    assert questions_of(world) == [(None, None)]
    assert world.states() == {"paint": "completed", "paint/answer": "completed"}


def test_it_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "MAX_AGENT_ANSWERS", 2)
    submit(world, "paint")
    for key in ("paint/answer", "paint/answer.2"):
        ask(world)
        answer(world, key, answer="blue")

    ask(world)

    assert "paint/answer.3" not in world.ids
    assert questions_of(world)[2] == (None, None)
    ((actor, report),) = story(world, "paint", EventType.PROGRESS)
    assert (actor, report["why"]) == ("task:paint", "agents have answered 2 of its questions already")


def test_who_answers_makes_no_task_by_asking(world: World) -> None:
    submit(world, "paint")
    ask(world)

    ask(world, "paint/answer", "What is a colour?")

    assert set(world.ids) == {"paint", "paint/answer"}
    assert questions_of(world, "paint/answer") == [(None, None)]


def test_it_has_neither_the_gates_nor_the_worktree_of_who_asks(world: World) -> None:
    more = {"run": RUN, "gates": ["make test"], "checkout": "git-worktree"}
    world.submit("paint", tasks={"paint": more}, questions=WHO)
    assert {"gates", "checkout"} <= world.task("paint").options.keys()

    ask(world)

    assert world.task("paint/answer").options.keys() == {"role", "depth"}


def test_an_agent_that_is_gone_by_then_leaves_it_to_a_person(world: World) -> None:
    submit(world, "paint")
    world.sql("UPDATE runs SET metadata = :none", none='{"questions": {"agent": "dave/vc"}}')

    ask(world)

    ((_, report),) = story(world, "paint", EventType.PROGRESS)
    assert "There is no agent 'dave/vc'" in report["why"]
    assert questions_of(world) == [(None, None)]


def test_without_the_setting_nobody_answers(world: World) -> None:
    submit(world, "paint", questions=None)

    ask(world)

    assert set(world.ids) == {"paint"}


def test_a_project_names_its_agent_and_a_plan_its_own(world: World) -> None:
    submit(world, "paint")

    def set_(value: Any) -> None:
        with world.store.write() as tx:
            project = projects.get(tx, world.workspace, world.project_id)
            assert project is not None
            project_service.amend(tx, world.workspace, project, merged={"settings": {"questions": value}})

    set_({"agent": "codex", "model": "m"})
    submit(world, "paint", questions=None)
    ask(world)
    assert world.task("paint/answer").work["agent"] == "codex"
    submit(world, "paint")
    ask(world)
    assert world.task("paint/answer").work["agent"] == "claude"

    for wrong in (5, {}, {"agent": "custom"}, {"agent": "claude", "prompt": "x"}, {"shell": "true"}, {"assess": "x"}):
        with pytest.raises(Refused):
            set_(wrong)
    set_(None)
    world.ids.clear()
    submit(world, "paint", questions=None)
    ask(world)
    assert set(world.ids) == {"paint"}


def test_an_agent_that_nobody_knows_refuses_the_plan(world: World) -> None:
    with refuses(Refused):
        submit(world, "paint", questions="dave/vc")
