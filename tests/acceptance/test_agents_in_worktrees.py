"""Test agents that change one repository side by side: gate output for the next attempt, an agent for conflicts."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.model_server import INPUT_TOKENS, OUTPUT_TOKENS, ModelServer, running_model_server

ASKS_MODEL = Path(__file__).parents[1] / "support" / "asks_model.py"
SPENT = '{"model": "m", "input_tokens": 5, "output_tokens": 1, "cost_usd": "0.01"}'


def git(folder: Path, *arguments: str) -> str:
    named = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
    return subprocess.run(
        ["git", *named, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(fleet: Fleet) -> Path:
    """Provide the project's repository, with one commit."""
    folder = fleet.folder / "project"
    git(folder, "init", "-q", "-b", "main")
    (folder / "words.txt").write_text("hello\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "begin")
    return folder


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Provide a stand-in for a model's provider, which records its requests."""
    with running_model_server([]) as server:
        yield server


class Agents:
    """Scripts that stand in for agents; each saves its prompt and reports what it spent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spends = f"echo '{SPENT}' >> \"$COORD_COSTS\""
        folder.mkdir()

    def call(self, name: str, *lines: str) -> AgentCall:
        path = self.folder / name
        keep = f'told="{self.folder}/told.$(echo "$COORD_TASK_KEY" | tr / -).$COORD_ATTEMPT"; cat > "$told"'
        path.write_text("\n".join(["#!/bin/sh", keep, self.spends, *lines, "echo did it"]))
        path.chmod(0o755)
        return AgentCall("custom", f"Be {name}", command=[str(path)])

    def told(self, key: str, attempt: int = 1) -> str:
        return (self.folder / f"told.{key.replace('/', '-')}.{attempt}").read_text()


@pytest.fixture
def agents(tmp_path: Path) -> Agents:
    return Agents(tmp_path / "agents")


def branch_of(run: Any) -> str:
    branch = run.record.branch
    assert branch is not None
    return str(branch)


def test_a_failed_gate_is_told_to_the_next_attempt_which_goes_on_from_its_change(
    fleet: Fleet, checkout: Path, agents: Agents
) -> None:
    fleet.worker("-c", "2")
    work = agents.call("mender", '[ "$COORD_ATTEMPT" = 1 ] || echo second >> more.txt', "echo first > first.txt")
    run = fleet.submit(
        Task(
            "mend", work, checkout="git-worktree", gates=["echo more.txt is missing; test -e more.txt"], max_attempts=2
        )
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert "more.txt is missing" in agents.told("mend", 2)
    assert "- `echo more.txt is missing; test -e more.txt`" in agents.told("mend")
    assert set(git(checkout, "ls-tree", "--name-only", branch_of(run)).split()) == {
        "words.txt",
        "first.txt",
        "more.txt",
    }
    assert git(checkout, "status", "--porcelain") == ""


def test_an_agent_that_asked_goes_on_where_it_was_with_what_it_had_changed(
    fleet: Fleet, checkout: Path, agents: Agents
) -> None:
    fleet.worker("-c", "2")
    coord = shlex.quote(str(Path(sys.executable).with_name("coord")))
    begin = f'[ "$COORD_ATTEMPT" = 1 ] && {{ pwd > was.txt; {coord} task ask "Which colour?"; exit 0; }}'
    run = fleet.submit(
        Task("paint", agents.call("painter", begin, "pwd > is.txt", "cmp was.txt is.txt"), checkout="git-worktree")
    )
    fleet.await_event(run, EventType.BLOCKED, key="paint")

    run.task("paint").answer("blue")

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("paint").output == "did it"
    assert git(checkout, "ls-tree", "--name-only", branch_of(run)).split() == ["is.txt", "was.txt", "words.txt"]
    assert "Answer: blue" in agents.told("paint", 2)


def test_a_conflict_becomes_a_task_whose_agent_sees_both_sides_and_everything_lands(
    fleet: Fleet, checkout: Path, agents: Agents
) -> None:
    fleet.worker("-c", "4")
    # Both begin at the same commit: each waits until the other has begun.
    meet = (
        f'touch "{agents.folder}/here.$COORD_TASK_KEY"; until [ -e "{agents.folder}/here.$OTHER" ]; do sleep 0.1; done'
    )
    resolve = "if grep -q '<<<<<<<' words.txt; then printf 'good day\\nhi\\n' > words.txt; echo resolved; exit 0; fi"
    tasks = [
        Task(
            key,
            agents.call(key, resolve, f"OTHER={other}", meet, f"echo '{word}' > words.txt"),
            checkout="git-worktree",
            gates=["test -s words.txt", "! grep -q '<<<' words.txt"],
        )
        for key, other, word in (("one", "two", "good day"), ("two", "one", "hi"))
    ]
    run = fleet.submit(*tasks, Task("after", {"shell": "true"}, needs=["one", "two"]))

    assert run.wait(timeout=90) is RunState.COMPLETED

    (merge,) = [task for task in run.tasks() if "-merge-" in task.key]
    prompt = agents.told(merge.key)
    assert "+good day" in prompt
    assert "+hi" in prompt
    assert git(checkout, "show", f"{branch_of(run)}:words.txt") == "good day\nhi"
    assert {task.state.value for task in run.tasks()} == {"completed"}
    assert (run.task("one").output, run.task("two").output) == ("did it", "did it")
    assert merge.record.creator in ("task:one", "task:two")
    assert run.cost == Decimal("0.03")
    assert git(checkout, "worktree", "list").count("\n") == 0


@pytest.mark.full
def test_an_agent_at_work_hears_that_others_have_merged_changes_of_its_files(
    fleet: Fleet, checkout: Path, agents: Agents
) -> None:
    fleet.worker("-c", "2")
    coord = shlex.quote(str(Path(sys.executable).with_name("coord")))
    heard, begun = agents.folder / "heard", agents.folder / "begun"
    report = f'until {coord} task progress "still at it" | tee {heard} | grep -q Others; do sleep 0.3; done'
    quick = f"until [ -e {begun} ]; do sleep 0.1; done; echo quick >> words.txt"
    slow = agents.call("slow", f"echo slow > words.txt; touch {begun}", report, "git checkout -q words.txt")
    run = fleet.submit(
        Task("slow", slow, checkout="git-worktree"), Task("quick", {"shell": quick}, checkout="git-worktree")
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert "\n- words.txt\n" in heard.read_text()
    assert git(checkout, "show", f"{branch_of(run)}:words.txt") == "hello\nquick"


@pytest.mark.full
def test_agents_that_change_one_line_all_land_and_each_conflict_is_resolved_once(
    fleet: Fleet, checkout: Path, agents: Agents
) -> None:
    for _ in range(2):
        fleet.worker("-c", "4")
    both = "grep -v '^[<=>|]' words.txt | tr ' ' '\\n' | sort -u | xargs echo > w; mv w words.txt"
    resolve = f"if grep -q '<<<<<<<' words.txt; then sleep 0.5; {both}; echo resolved; exit 0; fi"
    keys = [f"t{number}" for number in range(6)]
    work = 'until [ "$(ls {0}/here.* | wc -l)" = 6 ]; do sleep 0.1; done; echo "hello {1}" > words.txt'
    tasks = [
        Task(
            key,
            agents.call(key, resolve, f'touch "{agents.folder}/here.{key}"', work.format(agents.folder, key)),
            checkout="git-worktree",
            max_attempts=1,
        )
        for key in keys
    ]
    run = fleet.submit(*tasks)

    assert run.wait(timeout=120) is RunState.COMPLETED

    assert git(checkout, "show", f"{branch_of(run)}:words.txt").split() == ["hello", *keys]
    merges = [task for task in run.tasks() if "-merge-" in task.key]
    assert len(merges) == 5
    assert len(list(agents.folder.glob("told.*"))) == 6 + 5  # no attempt was wasted
    (first, *later) = sorted((attempt.started_at, attempt.finished_at) for m in merges for attempt in m.attempts())
    for begins, ends in later:
        assert begins >= first[1]
        first = (begins, ends)


def test_of_variants_in_worktrees_only_the_winner_is_merged(fleet: Fleet, checkout: Path, agents: Agents) -> None:
    fleet.worker("-c", "4")
    slow = {"command": agents.call("slow", "sleep 600", "echo slow > made.txt").command}
    quick = {"command": agents.call("quick", "echo quick > made.txt").command}
    wrong = {"command": agents.call("wrong", "echo wrong > made.txt").command}
    run = fleet.submit(
        Task(
            "make",
            agents.call("make"),
            checkout="git-worktree",
            gates=["! grep -q wrong made.txt"],
            variants=[slow, wrong, quick],
        )
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert git(checkout, "show", f"{branch_of(run)}:made.txt") == "quick"
    states = {task.key: task.state.value for task in run.tasks()}
    assert (states["make/1"], states["make/3"], states["make"]) == ("canceled", "completed", "completed")
    assert states["make/2"] in ("failed", "canceled")


@pytest.mark.full
@pytest.mark.timeout(400)
def test_fifty_agents_on_one_repository_all_land_leave_nothing_and_cost_what_their_model_served(
    fleet: Fleet, checkout: Path, agents: Agents, model: ModelServer
) -> None:
    agents.spends = f'{shlex.join([sys.executable, str(ASKS_MODEL), model.url])} < "$told" || exit 1'
    for _ in range(2):
        fleet.worker("-c", "8")
    # Nine of ten change a file of their own; every tenth writes a line of the same file, and has to resolve conflicts.
    both = "grep -v '^[<=>|]' shared.txt | sort -u > s; mv s shared.txt"
    resolve = f"if grep -q '<<<<<<<' shared.txt 2>/dev/null; then {both}; echo resolved; exit 0; fi"
    tasks = [
        Task(
            f"t{number}",
            agents.call(
                f"t{number}",
                resolve,
                f"echo {number} >> shared.txt; sleep 0.5" if number % 10 == 0 else f"echo {number} > file{number}.txt",
            ),
            checkout={"kind": "git-worktree", "keep_failed": 0},
            gates=["true"],
        )
        for number in range(50)
    ]
    reference = ProjectRef(name="fleet", path=str(checkout))
    run = fleet.co.submit(Plan(tasks, project=reference))

    ended = run.wait(timeout=300)
    wrong = {
        task.key: [attempt.error for attempt in task.attempts()] for task in run.tasks() if task.state != "completed"
    }
    assert (ended, wrong) == (RunState.COMPLETED, {})

    files = set(git(checkout, "ls-tree", "--name-only", branch_of(run)).split())
    assert files == {"words.txt", "shared.txt", *(f"file{number}.txt" for number in range(50) if number % 10)}
    shared = git(checkout, "show", f"{branch_of(run)}:shared.txt").split()
    assert sorted(shared, key=int) == ["0", "10", "20", "30", "40"]
    assert git(checkout, "worktree", "list").count("\n") == 0
    assert git(checkout, "fsck", "--strict", "--no-dangling") == ""
    with fleet.co.runtime.store.read() as tx:
        from coordination.store.queries.money import costs

        usd, calls, unpriced = costs.total(tx, fleet.co.runtime.workspace_id, run_id=run.id)
    prompts = list(agents.folder.glob("told.*"))
    # three dollars a million in, fifteen out, by the built-in price list
    served = Decimal(3 * INPUT_TOKENS + 15 * OUTPUT_TOKENS) * model.served / 1_000_000
    assert (usd, calls, unpriced) == (served, model.served, 0)
    assert model.served == len(prompts)
    left = subprocess.run(["pgrep", "-f", str(agents.folder)], capture_output=True, text=True, check=False).stdout
    assert left == ""
