"""Test an agent that answers another's question, on real workers; a person gets questions with invalid answers."""

from __future__ import annotations

import json
import shlex
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState
from tests.acceptance.test_supervised_loop import Script
from tests.support.fleet import Fleet
from tests.support.processes import until

pytestmark = pytest.mark.shared_worker

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "script").mkdir()
    return Script(tmp_path / "script")


def asking(folder: Path) -> AgentCall:
    """Return a stand-in for an agent that asks for a colour until it gets an answer."""
    path = folder / "asking"
    path.write_text(
        '#!/bin/sh\ntold=$(cat)\ncase "$told" in *"Answer: "*) echo "$told" | sed -n "s/.*Answer: /painted /p";;\n'
        f'*) {COORD} task ask "Which colour?" >/dev/null;; esac\n'
    )
    path.chmod(0o755)
    return AgentCall("custom", "Paint the door", command=[str(path)])


def who(script: Script) -> dict[str, Any]:
    return {"agent": "custom", "command": [str(script.path)]}


def test_an_agent_answers_and_the_other_goes_on_without_anybody(fleet: Fleet, script: Script, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    script.answer("paint/answer", f"I think:\n```json\n{json.dumps({'answer': 'blue'})}\n```")
    run = fleet.submit(
        Task("look", {"shell": "echo a wooden door"}),
        Task("paint", asking(tmp_path), needs=["look"]),
        Task("tell", {"shell": "echo {{ needs.paint.output }}"}, needs=["paint"]),
        questions=who(script),
    )

    assert run.wait(timeout=90) is RunState.COMPLETED

    assert run.task("tell").output == "painted blue"
    prompt = script.told("paint/answer")
    for words in ("## The question\nWhich colour?\n", "Paint the door", "### look (completed)\na wooden door"):
        assert words in prompt
    assert "coord task" not in prompt
    assert run.task("paint/answer").output == {"answer": "blue"}
    (question,) = run.task("paint").questions()
    assert (question.answer, question.answered_by) == ("blue", "task:paint/answer")
    (event,) = [event for event in run.task("paint").events() if event.type is EventType.ANSWERED]
    assert (event.actor, event.payload["agent"]) == ("task:paint/answer", "custom")
    assert run.cost == Decimal("0.01")


def test_rubbish_is_asked_about_once_more_and_then_left_to_a_person(
    fleet: Fleet, script: Script, tmp_path: Path
) -> None:
    fleet.worker("-c", "2")
    script.answer("paint/answer", "blue, perhaps", {"answer": "blue", "cannot": "no"})
    script.answer("lamp/answer", {"cannot": "taste is not mine"})
    run = fleet.submit(Task("paint", asking(tmp_path)), Task("lamp", asking(tmp_path)), questions=who(script))
    until(
        lambda: {task.state for task in run.tasks()} == {"blocked", "completed"} and len(run.tasks()) == 4,
        what="both wait for a person",
    )

    assert "could not be used: The answer contains no JSON object" in script.told("paint/answer", 2)
    whys = {
        key: [event.payload["why"] for event in run.task(key).events() if "decision" in event.payload]
        for key in ("paint", "lamp")
    }
    assert whys == {
        "paint": ["its answer cannot be used: It must have either answer or cannot"],
        "lamp": ["taste is not mine"],
    }
    assert fleet.coord("tasks", "answer", "paint", "red").out.startswith("Answer saved; paint resumes (project ")
    run.task("lamp").answer("green")
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert (run.task("paint").output, run.task("lamp").output) == ("painted red", "painted green")


def test_who_answers_can_neither_ask_nor_add_work_and_a_dead_one_leaves_it_to_a_person(
    fleet: Fleet, script: Script, tmp_path: Path
) -> None:
    fleet.worker("-c", "2")
    script.path.write_text(
        f'#!/bin/sh\n{{ {COORD} task ask "What is a colour?"; {COORD} task discovered x --shell true; }} > said 2>&1\n'
        f"echo dying >&2; exit 3\n"
    )
    fleet.submit(Task("first", {"shell": "true"})).wait(timeout=30)
    fleet.coord("projects", "change", "fleet", "--set", f"questions={json.dumps(who(script))}")
    run = fleet.submit(Task("paint", asking(tmp_path)))

    until(lambda: [task.state for task in run.tasks()] == ["blocked", "completed"], what="it waits for a person")

    assert (
        fleet.file("said").read_text().count("A task that answers a question can neither ask questions nor add tasks")
        == 2
    )
    (payloads,) = [event.payload for event in run.task("paint").events() if "decision" in event.payload]
    assert payloads["why"].startswith("paint/answer: ")
    run.task("paint").answer("red")
    assert run.wait(timeout=60) is RunState.COMPLETED
