"""Test jobs that report: progress, questions that are answered, discovered tasks, failures by their own judgement."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import until

pytestmark = pytest.mark.shared_worker

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))


def scripted(folder: Path, *lines: str, name: str = "agent") -> dict[str, Any]:
    """Return an agent that is a script: it saves its prompt by task and attempt, and executes *lines*."""
    path = folder / name
    keep = 'told="$(dirname "$0")/$COORD_TASK_KEY.$COORD_ATTEMPT"; cat > "$told"'
    path.write_text("\n".join(["#!/bin/sh", keep, f'coord() {{ {COORD} "$@"; }}', *lines, "echo finished"]))
    path.chmod(0o755)
    return {"command": [str(path)]}


def prompt_of(folder: Path, key: str, attempt: int = 1) -> str:
    return (folder / f"{key}.{attempt}").read_text()


def agent(folder: Path, prompt: str, *lines: str, name: str = "agent") -> AgentCall:
    return AgentCall("custom", prompt, **scripted(folder, *lines, name=name))


def story(run: Run, key: str) -> Sequence[Any]:
    return [event for event in run._events_after("0.0") if event.key == key]


def blocked(run: Run, key: str) -> bool:
    return run.task(key).state == "blocked"


def test_an_agent_is_told_its_task_what_came_before_and_how_to_report(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    run = fleet.submit(
        Task("lint", {"shell": "echo 'x.py:1 unused'"}),
        Task(
            "fix", agent(tmp_path, "Mend what lint says", 'coord task progress "halfway" --percent 50'), needs=["lint"]
        ),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    prompt = prompt_of(tmp_path, "fix")
    assert prompt.startswith("Mend what lint says\n")
    assert "### lint (completed)\nx.py:1 unused" in prompt
    assert "coord task ask" in prompt
    (messages,) = [event.payload for event in story(run, "fix") if event.payload.get("percent")]
    assert messages == {"text": "halfway", "percent": 50.0}
    assert run.task("fix").output == "finished"


@pytest.mark.smoke
def test_a_question_stops_the_task_and_its_answer_starts_it_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    ask = 'grep -q "Answer: blue" "$told" || { coord task ask "Which colour?"; exit 0; }'
    run = fleet.submit(
        Task("paint", agent(tmp_path, "Paint it", ask)), Task("after", {"shell": "true"}, needs=["paint"])
    )
    until(lambda: blocked(run, "paint"), within=timedelta(seconds=30), what="the task waits for an answer")
    task = run.task("paint")

    (question,) = task.questions()
    assert (question.question, question.answer, task.record.reasons.names()) == ("Which colour?", None, ["question"])
    assert "Which colour?" in fleet.coord("questions").out
    assert fleet.coord("questions", "--json").json["questions"][0]["key"] == "paint"
    assert fleet.coord("tasks", "answer", "paint", "blue").out.startswith("Answer saved; paint resumes (project ")

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert "Which colour?\n  Answer: blue" in prompt_of(tmp_path, "paint", 2)
    assert [
        event.type.value for event in story(run, "paint") if event.type in ("blocked", "answered", "unblocked")
    ] == [
        "blocked",
        "answered",
        "unblocked",
    ]
    assert "has no open question" in fleet.coord("tasks", "answer", "paint", "red", code=2).err


def test_work_that_is_found_joins_the_run_and_what_comes_first_is_waited_for(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    lines = [
        '[ "$COORD_TASK_KEY.$COORD_ATTEMPT" = a.1 ] || { echo "$COORD_TASK_KEY again"; exit 0; }',
        "coord task discovered later --title 'A bug' --prompt 'Mend {{ this }}'",
        "coord task discovered first --shell 'echo prepared' --first",
    ]
    run = fleet.submit(Task("a", agent(tmp_path, "Do it", *lines)), Task("z", {"shell": "true"}, needs=["a"]))

    until(lambda: run.task("a").state == "completed", within=timedelta(seconds=60), what="a goes on and completes")

    assert "### first (completed)\nprepared" in prompt_of(tmp_path, "a", 2)
    assert run.task("a").output == "a again"
    assert (run.task("later").record.title, run.task("later").record.creator) == ("A bug", "task:a")
    assert run.wait(timeout=60) is RunState.COMPLETED
    assert prompt_of(tmp_path, "later").startswith("Mend {{ this }}\n")
    assert run.task("later").output == "later again"


def test_an_agent_says_itself_that_it_failed_and_whether_to_try_again(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    retried = Task("again", agent(tmp_path, "Try", 'coord task fail "no luck"', name="one"), max_attempts=2)
    final = Task("never", agent(tmp_path, "Try", 'coord task fail "no way" --final', name="two"), max_attempts=2)
    run = fleet.submit(retried, final)

    assert run.wait(timeout=60) is RunState.FAILED

    assert [attempt.error for attempt in run.task("again").attempts()] == ["no luck", "no luck"]
    assert [attempt.error for attempt in run.task("never").attempts()] == ["no way"]


def test_bad_reports_are_refused_in_one_sentence_and_change_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    lines = [
        "exec > said 2>&1",
        "coord task progress ''",
        "coord task progress x --percent 101",
        "coord task discovered other --shell true",
        "coord task discovered x --shell true --needs nobody",
        "coord task discovered 'a b' --shell true",
        "coord task discovered",
        "echo nonsense | coord task discovered --file -",
        "COORD_TOKEN=wrong coord task progress hello",
        "coord task context",
        "coord task done --json '{\"made\": 1}'",
    ]
    run = fleet.submit(
        Task("a", {"shell": "\n".join(line.replace("coord ", f"{COORD} ", 1) for line in lines)}),
        Task("other", {"shell": "true"}),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert run.task("a").output == {"made": 1}
    assert len(run.tasks()) == 2
    output = fleet.file("said").read_text()
    for words in (
        "text must be a text",
        "percent must be from 0 to 100, not 101",
        "has a task 'other' already",
        "needs 'nobody'",
        "'a b' cannot be a key",
        "Give the task a key",
        "is not JSON",
        "not of the attempt of this socket",
        '"key": "a"',
    ):
        assert words in output, words
    assert "Traceback" not in output
