"""Test the review loop: assess while others work, split, execute, judge, send back; invalid answers do not stop it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Supervision, Task
from coordination.domain.tasks.tasks import OnDependencyFailure, RunState
from tests.support.fleet import Fleet

pytestmark = pytest.mark.shared_worker

RUN = OnDependencyFailure.RUN
SPENT = {"model": "m", "input_tokens": 5, "output_tokens": 1, "cost_usd": "0.01"}


class Script:
    """A stand-in for an agent: it answers by its task's key, and saves its prompt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "agent"
        self.path.write_text(
            '#!/bin/sh\ncd "$(dirname "$0")"; name=$(echo "$COORD_TASK_KEY" | tr / -)\n'
            'n=1; while [ -e "told.$name.$n" ]; do n=$((n + 1)); done; cat > "told.$name.$n"\n'
            f"echo '{json.dumps(SPENT)}' >> \"$COORD_COSTS\"\n"
            '[ -e "answer.$name.$n" ] && cat "answer.$name.$n" || echo "did $COORD_TASK_KEY"\n'
        )
        self.path.chmod(0o755)

    def answer(self, key: str, *answers: Any) -> None:
        for number, answer in enumerate(answers, start=1):
            text = answer if isinstance(answer, str) else json.dumps(answer)
            (self.folder / f"answer.{key.replace('/', '-')}.{number}").write_text(text)

    def told(self, key: str, number: int = 1) -> str:
        return (self.folder / f"told.{key.replace('/', '-')}.{number}").read_text()

    def call(self, prompt: str) -> AgentCall:
        return AgentCall("custom", prompt, command=[str(self.path)])

    def supervision(self) -> Supervision:
        supervisor = {"agent": "custom", "command": [str(self.path)]}
        return Supervision(assess=supervisor, analyze=supervisor)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    (tmp_path / "script").mkdir()
    return Script(tmp_path / "script")


DONE = {"verdict": "done", "why": "tests pass"}
PLAIN = {"strategy": "just do it", "risks": ["none"], "subtasks": []}


def decisions(run: Any, key: str) -> list[str]:
    return [event.payload["decision"] for event in run.task(key).events() if "decision" in event.payload]


def test_a_task_is_assessed_split_done_analysed_and_leaves_follow_ups(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    subtasks = [
        {"key": "tests", "title": "Tests", "prompt": "Write {{ tests }}"},
        {"key": "code", "title": "Code", "prompt": "Write code", "needs": ["tests"]},
    ]
    script.answer("fix/assess", f"Here it is:\n```json\n{json.dumps({**PLAIN, 'subtasks': subtasks})}\n```\n")
    script.answer("fix", {**DONE, "follow_ups": [{"key": "bug", "title": "A bug", "prompt": "Mend the bug"}]})
    run = fleet.submit(
        Task("fix", script.call("Mend the door"), criteria=["it opens"]),
        Task("after", {"shell": "echo {{ needs.fix.output }}"}, needs=["fix"]),
        supervision=script.supervision(),
    )

    assert run.wait(timeout=90) is RunState.COMPLETED

    assert {task.key for task in run.tasks()} == {
        "fix", "fix/assess", "fix/work", "fix/work/tests", "fix/work/code", "fix/bug",
        "fix/bug/assess", "fix/bug/work", "after",
    }  # fmt: skip
    assert run.task("after").output == "did fix/work"
    assert "- it opens" in script.told("fix/assess")
    assert script.told("fix/work/tests").startswith("Write {{ tests }}\n")
    assert "did fix/work/tests" in script.told("fix/work/code")
    assert "just do it" in script.told("fix/work")
    assert "did fix/work/code" in script.told("fix/work")
    assert "did fix/work" in script.told("fix")
    assert (run.task("fix/bug").record.creator, run.task("fix/bug").output) == ("task:fix", "did fix/bug/work")
    assert (decisions(run, "fix/assess"), decisions(run, "fix/work"), decisions(run, "fix")) == (
        ["assessed"],
        ["split"],
        ["done"],
    )


def test_the_next_task_is_assessed_while_the_current_one_is_done(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    script.answer("next/assess", PLAIN)
    wait = f"until [ -e {script.folder}/told.next-assess.1 ]; do sleep 0.1; done; echo seen"
    run = fleet.submit(
        Task("current", {"shell": wait}),
        Task("next", script.call("Go on"), needs=["current"]),
        supervision=Supervision(assess=script.supervision().assess),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("current").output == "seen"
    assert "just do it" in script.told("next")


def test_what_is_not_done_is_gone_on_with_a_bounded_number_of_times(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    again = {"verdict": "again", "why": "the hinge is missing"}
    script.answer("fix", again, DONE)
    script.answer("never", again, again, again, again)
    run = fleet.submit(
        Task("fix", script.call("Mend it")),
        Task("never", script.call("Mend that")),
        supervision=Supervision(analyze=script.supervision().analyze),
    )

    assert run.wait(timeout=90) is RunState.FAILED

    assert run.task("fix").output == "did fix/work.2"
    assert "the hinge is missing" in script.told("fix/work.2")
    assert run.task("never").error == "not done after 3 rounds: the hinge is missing"
    assert [task.key for task in run.tasks() if task.key.startswith("never/")] == [
        "never/work", "never/work.2", "never/work.3",
    ]  # fmt: skip


def test_rubbish_is_asked_for_once_more_and_then_done_without(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    script.answer("one/assess", "I would rather not", "No {")
    script.answer("one", "maybe", {"verdict": "perhaps"})
    script.answer("two/assess", '{"strategy": 5}', PLAIN)
    script.answer("two", DONE)
    run = fleet.submit(
        Task("one", script.call("Mend one")), Task("two", script.call("Mend two")), supervision=script.supervision()
    )

    assert run.wait(timeout=120) is RunState.COMPLETED

    assert "could not be used: The answer contains no JSON object" in script.told("one/assess", 2)
    assert "unusable" in run.task("one/assess").output
    assert (run.task("one").output, decisions(run, "one")) == ("did one/work", ["none"])
    assert "strategy must be a text" in script.told("two/assess", 2)
    assert run.task("two/assess").output["strategy"] == "just do it"
    assert all(task.record.failures == 0 for task in run.tasks())


def test_what_a_supervisor_spent_is_counted_even_if_what_it_found_cannot_be_added(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    script.answer("fix", {**DONE, "follow_ups": [{"key": "taken", "title": "T", "prompt": "p"}]})
    run = fleet.submit(
        Task("fix", script.call("Mend it")),
        Task("fix/taken", {"shell": "true"}),
        supervision=Supervision(analyze=script.supervision().analyze),
    )

    assert run.wait(timeout=60) is RunState.FAILED

    fix = run.task("fix")
    assert fix.error == "its result cannot be stored: The run has a task 'fix/taken' already"
    assert fix.cost == Decimal("0.01")


def test_work_that_fails_is_not_called_done(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    script.answer("fix", DONE)
    run = fleet.submit(
        Task("fix", AgentCall("custom", "Mend it", command=["/bin/false"])),
        supervision=Supervision(analyze=script.supervision().analyze),
    )

    assert run.wait(timeout=60) is RunState.FAILED
    assert (run.task("fix/work").state, run.task("fix").state) == ("failed", "canceled")


def test_where_nothing_was_done_no_model_is_asked_to_judge_it(fleet: Fleet, script: Script) -> None:
    fleet.worker("-c", "4")
    script.answer("fix", DONE)
    run = fleet.submit(
        Task("fix", AgentCall("custom", "Mend it", command=["/bin/false"]), on_dependency_failure=RUN),
        supervision=Supervision(analyze=script.supervision().analyze),
    )

    assert run.wait(timeout=60) is RunState.FAILED
    assert run.task("fix").error == "the work ended without success"
    assert not list(script.folder.glob("told.*"))
