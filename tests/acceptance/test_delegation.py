"""Test jobs that delegate to other agents and escalate: by command, in Python and over MCP, with real workers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from coordination.domain.agents.agents import Profile
from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.acceptance.test_mcp import answers, calling
from tests.support.fleet import Fleet
from tests.support.processes import until

pytestmark = pytest.mark.shared_worker

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))


def program(folder: Path, name: str, script: str) -> list[str]:
    """Return a stand-in for an agent."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def test_an_agent_gives_work_to_another_and_is_told_what_came_of_it(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    command = program(
        tmp_path,
        "both",
        f"""
told=$(cat)
case "$COORD_AGENT" in bob) echo "looked: well"; exit;; esac
case "$told" in *"looked: well"*) echo "done with it"; exit;; esac
{COORD} task delegate review --to bob --prompt "Look at {{{{ it }}}}" --title "A review" --first > delegated
{COORD} task delegate nobody --to eve --prompt x 2> refused || true
""",
    )
    fleet.co.agents.create(Profile("bob", runner={"agent": "custom", "command": command}))
    fleet.co.agents.create(Profile("eve", runner={"agent": "codex"}))
    run = fleet.submit(Task("build", AgentCall("custom", "Build it", command=command)))

    assert run.wait(timeout=90) is RunState.COMPLETED

    review = run.task("review")
    assert (review.record.agent, review.record.title, review.output) == ("bob", "A review", "looked: well")
    assert run.task("build").output == "done with it"
    assert fleet.file("delegated").read_text().splitlines()[0] == f"review  {review.id}"
    assert "may use more than the job that delegates" in fleet.file("refused").read_text()
    shown = fleet.coord("tasks", "show", "review").out
    assert "delegated by" in shown
    assert "delegated by build" in fleet.coord("explain", "review").out
    assert fleet.coord("explain", "review", "--json").json["task"]["delegated_by"] == ["build"]
    assert len(run.tasks()) == 2


def test_jobs_escalate_and_delegate_in_python_and_over_mcp(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker("-c", "2")
    command = program(tmp_path, "bob", "cat > /dev/null; echo well")
    fleet.co.agents.create(Profile("bob", runner={"agent": "custom", "command": command}))
    fleet.submit(Task("first", {"shell": "true"}))
    fleet.coord("projects", "change", "fleet", "--set", 'delegates=["bob"]')
    delegates = "from coordination.job import delegate; print(delegate('one', to='bob', prompt='Look'))"
    python = f"[ $COORD_ATTEMPT = 2 ] || {shlex.join([sys.executable, '-c', delegates])} > one"
    escalates = shlex.join([sys.executable, "-c", "from coordination.job import escalate; escalate('May I?')"])
    tools = calling(("delegate", {"key": "two", "to": "bob", "prompt": "Look"}), ("delegate", {"key": "x"}))
    asks = calling(("escalate", {"why": "May we?"}))
    run = fleet.submit(
        Task("a", {"shell": f"{python}; [ $COORD_ATTEMPT = 2 ] || {escalates}"}),
        Task("b", {"shell": f"[ $COORD_ATTEMPT = 2 ] || {{ {tools} > two; {asks}; }}"}),
    )
    until(lambda: {run.task(key).state for key in "ab"} == {"blocked"}, what="both wait for an answer")

    listed = fleet.coord("questions").out
    assert "escalated: May I?" in listed
    assert "escalated: May we?" in listed
    for key in "ab":
        fleet.coord("tasks", "answer", key, "yes")
    assert run.wait(timeout=90) is RunState.COMPLETED

    assert fleet.file("one").read_text().strip() == run.task("one").id
    assert run.task("two").output == run.task("one").output == "well"
    _, done, wrong = answers(fleet.file("two").read_text())
    assert run.task("two").id in done[2]
    assert wrong[1:] == [True, "delegate lacks the argument to. Call delegate with: " + wrong[2].partition("with: ")[2]]
