"""Test that each obstacle of a task is shown with the command that removes it, and that it works as printed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import BudgetCap, Concurrency, Task
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskState
from tests.support.command import Coord, coord_in
from tests.support.fleet import Fleet
from tests.support.processes import Processes, until
from tests.support.speed import patience

pytestmark = pytest.mark.shared_worker

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))
COMMAND = re.compile(r"(?:^|: )(coord .*)$")
UNLESS_MENDED = "test -e mended || { echo seen on stdout; echo seen on stderr >&2; exit 3; }"
LIMIT = timedelta(seconds=60)


@dataclass
class Stuck:
    """A task that is blocked: its explanation, what must be fixed first, and the number of commands that it needs."""

    run: Run
    key: str
    state: TaskState
    mend: Callable[[], object] = lambda: None
    commands: int = 1
    fill: dict[str, str] = field(default_factory=dict)
    explained: str | None = None
    holder: str | None = None


def commands_of(said: str) -> list[str]:
    """Return the commands with which the lines of an answer end; all of them where a line has several."""
    parts = [part for line in said.splitlines() for part in line.split("; ")]
    return [match[1].rstrip(".") for part in parts if (match := COMMAND.search(part.strip()))]


def enter(coord: Coord, command: str, fill: dict[str, str]) -> None:
    """Run a command as printed, with its placeholders replaced."""
    words = [fill.get(word, word) for word in shlex.split(command)]
    for placeholder, value in fill.items():
        words = [word.replace(placeholder, value) if placeholder in word else word for word in words]
    assert words[0] == "coord"
    coord(*words[1:])


def program(fleet: Fleet, text: str, name: str = "agent") -> AgentCall:
    path = fleet.file(name)
    path.write_text(f"#!/bin/sh\ncat >/dev/null\n{text}\n")
    path.chmod(0o755)
    return AgentCall("custom", "Do it", command=[str(path)])


def mended(fleet: Fleet) -> Callable[[], object]:
    return lambda: fleet.file("mended").touch()


def failed(fleet: Fleet) -> Stuck:
    return Stuck(fleet.submit(Task("b", {"shell": UNLESS_MENDED})), "b", TaskState.FAILED, mended(fleet))


def gate(fleet: Fleet) -> Stuck:
    run = fleet.submit(Task("b", {"shell": "true"}, gates=[UNLESS_MENDED]))
    return Stuck(run, "b", TaskState.FAILED, mended(fleet))


def question(fleet: Fleet) -> Stuck:
    path = fleet.file("asking")
    path.write_text(
        f'#!/bin/sh\ncase "$(cat)" in *"Answer: "*) echo ok;; *) {COORD} task ask "Which?" >/dev/null;; esac\n'
    )
    path.chmod(0o755)
    run = fleet.submit(Task("b", AgentCall("custom", "Do it", command=[str(path)])))
    return Stuck(run, "b", TaskState.BLOCKED)


def outcome_unknown(fleet: Fleet) -> Stuck:
    job = {"shell": "test -e mended || exec sleep 600"}
    run = fleet.submit(Task("b", job, repeatable=False, max_attempts=2, timeout=timedelta(seconds=1)))
    return Stuck(run, "b", TaskState.BLOCKED, mended(fleet))


def limit(fleet: Fleet) -> Stuck:
    work = program(fleet, f"cd {shlex.quote(str(fleet.file('.')))}; {UNLESS_MENDED}")
    run = fleet.submit(Task("b", work, max_starts=1, max_attempts=1 + 1, backoff=Backoff(initial=timedelta(0))))
    return Stuck(run, "b", TaskState.BLOCKED, mended(fleet))


def on_hold(fleet: Fleet) -> Stuck:
    first = fleet.submit(Task("a", {"shell": "true"}))
    first.wait(timeout=60)
    fleet.co.projects.pause("fleet")
    return Stuck(fleet.submit(Task("b", {"shell": "true"})), "b", TaskState.BLOCKED)


def not_before(fleet: Fleet) -> Stuck:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    return Stuck(fleet.submit(Task("b", {"shell": "true"}, not_before=later)), "b", TaskState.BLOCKED)


def back_off(fleet: Fleet) -> Stuck:
    long = Backoff(initial=timedelta(hours=1), maximum=timedelta(hours=1))
    run = fleet.submit(Task("b", {"shell": UNLESS_MENDED}, max_attempts=3, backoff=long))
    until(lambda: run.task("b").record.failures, within=LIMIT, what="a failure")
    return Stuck(run, "b", TaskState.QUEUED, mended(fleet))


def need_failed(fleet: Fleet) -> Stuck:
    waits = Task("b", {"shell": "true"}, needs=["a"], on_dependency_failure=OnDependencyFailure.BLOCK)
    run = fleet.submit(Task("a", {"shell": UNLESS_MENDED}), waits)
    until(lambda: run.task("a").state is TaskState.FAILED, within=LIMIT, what="a failure")
    return Stuck(run, "b", TaskState.BLOCKED, mended(fleet))


def canceled(fleet: Fleet) -> Stuck:
    run = fleet.submit(Task("b", {"shell": "test -e mended || exec sleep 600"}))
    run.task("b").cancel()
    return Stuck(run, "b", TaskState.CANCELED, mended(fleet))


def canceled_with_need(fleet: Fleet) -> Stuck:
    run = fleet.submit(
        Task("a", {"shell": UNLESS_MENDED}),
        Task("m", {"shell": "true"}, needs=["a"]),
        Task("b", {"shell": "true"}, needs=["m"]),
    )
    return Stuck(run, "b", TaskState.CANCELED, mended(fleet))


def program_missing(fleet: Fleet) -> Stuck:
    work = AgentCall("custom", "Do it", command=[str(fleet.file("later"))])
    return Stuck(fleet.submit(Task("b", work)), "b", TaskState.FAILED, lambda: program(fleet, "echo ok", "later"))


def folder_missing(fleet: Fleet) -> Stuck:
    run = fleet.submit(Task("b", {"shell": "true"}, workdir=str(fleet.file("later"))))
    return Stuck(run, "b", TaskState.FAILED, lambda: fleet.file("later").mkdir())


def model_not_allowed(fleet: Fleet) -> Stuck:
    work = program(fleet, "echo ok")
    fleet.submit(Task("a", {"shell": "true"})).wait(timeout=60)
    later = datetime(2100, 1, 1, tzinfo=UTC)
    call = AgentCall("custom", "Do it", command=work.command, model="large-1")
    run = fleet.submit(Task("b", call, not_before=later))
    fleet.coord("projects", "change", "fleet", "--models", 'allow=["small-1"]')
    run.task("b").force("queued", reason="now")
    return Stuck(run, "b", TaskState.BLOCKED, holder="does not allow the model")


def budget(fleet: Fleet) -> Stuck:
    work = program(fleet, "echo ok")
    run = fleet.submit(Task("a", work), Task("b", work, needs=["a"]), budget=BudgetCap(starts=1))
    return Stuck(run, "b", TaskState.BLOCKED, fill={"N": "5"}, holder="budget")


def slot(fleet: Fleet) -> Stuck:
    hangs = Task("a", {"shell": "touch begun; exec sleep 600"}, concurrency_key="deploy", priority=5)
    waits = Task("b", {"shell": "true"}, concurrency_key="deploy")
    run = fleet.submit(hangs, waits, concurrency=Concurrency(keys={"deploy": 1}))
    fleet.await_file_made("begun")
    return Stuck(run, "b", TaskState.QUEUED, fill={"N": "2"}, holder="slot")


SITUATIONS = (
    failed,
    gate,
    question,
    outcome_unknown,
    limit,
    on_hold,
    not_before,
    back_off,
    need_failed,
    canceled,
    canceled_with_need,
    program_missing,
    folder_missing,
    model_not_allowed,
    budget,
    slot,
)


@pytest.mark.parametrize("bring_about", SITUATIONS, ids=lambda one: one.__name__)
def test_the_command_that_explain_ends_with_lets_the_task_go_on(
    fleet: Fleet, bring_about: Callable[[Fleet], Stuck]
) -> None:
    fleet.worker("-c", "2")
    stuck = bring_about(fleet)
    until(
        lambda: (
            stuck.run.task(stuck.key).state is stuck.state
            and (stuck.holder is None or stuck.holder in fleet.coord("explain", stuck.key, "--json").out)
        ),
        within=LIMIT,
        what=f"{stuck.key} {stuck.state}",
    )

    output = fleet.coord("explain", stuck.key).out
    result = commands_of(output)
    stuck.mend()
    for command in result[-stuck.commands :]:
        enter(fleet.coord, command, stuck.fill)

    until(
        lambda: stuck.run.task(stuck.key).state is TaskState.COMPLETED,
        within=timedelta(seconds=patience(60)),
        what=f"{stuck.key} completed after {result}\n{output}",
    )
    stuck.run.cancel()


def test_every_command_that_is_printed_for_a_failed_task_is_one_that_there_is(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    run = failed(fleet).run
    run.wait(timeout=60)

    for command in commands_of(fleet.coord("explain", "b").out):
        enter(fleet.coord, command, {})


def test_an_older_run_of_the_same_plan_is_named_by_its_id(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    older, newer = failed(fleet).run, failed(fleet).run
    for run in (older, newer):
        run.wait(timeout=60)

    (of_newer,) = {shlex.split(command)[3] for command in commands_of(fleet.coord("explain", "b").out)}
    (of_older,) = {
        shlex.split(command)[3] for command in commands_of(fleet.coord("explain", "b", "--run", older.id).out)
    }

    assert of_newer == "b"
    assert of_older == older.task("b").id


def test_an_agent_that_is_started_again_is_told_how_it_failed_and_what_it_printed(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    prompts = fleet.file("told")
    path = fleet.file("agent")
    path.write_text(
        f"#!/bin/sh\ncat > {prompts}.$COORD_ATTEMPT\n"
        "echo 'no $KEY here: hidden-value'; echo 'two tests fail' >&2; exit $((2 - COORD_ATTEMPT))\n"
    )
    path.chmod(0o755)
    again = Backoff(initial=timedelta(0))

    run = fleet.submit(
        Task("b", AgentCall("custom", "Do it", command=[str(path)]), max_attempts=2, backoff=again),
    )
    run.wait(timeout=patience(60))

    first, second = (Path(f"{prompts}.{number}").read_text() for number in (1, 2))
    assert "Why your last attempt was rejected" not in first
    assert "## Why your last attempt was rejected\nIt failed: exit status 1: two tests fail\n" in second
    assert "answer:\n  no $KEY here: hidden-value\nstderr:\n  two tests fail" in second


@pytest.mark.own_worker
def test_the_end_of_a_run_shows_both_streams_and_a_command_that_goes_on_with_it(coord_on_each: Coord) -> None:
    coord = coord_on_each
    plan = coord.cwd / "plan.yaml"
    plan.write_text(
        "version: 1\nname: nightly\ntasks:\n  - key: unit\n    run:\n      shell: |\n"
        "        seq 40; printf '\\033[31m1 failed\\033[0m\\n'; echo 'broken pipe' >&2; test -e mended\n"
        "  - {key: ship, needs: [unit], run: {shell: 'echo shipped'}}\n"
    )

    output = coord.process("run", plan, code=1).out
    shown = coord("runs", "show", "nightly").out
    of_task = coord("tasks", "show", "unit").out
    as_json = coord("tasks", "show", "unit", "--json").json["last_lines"]

    for text in (output, shown, of_task):
        assert "unit, the last lines of its stdout:\n  27\n" in text
        assert "  40\n  1 failed\n" in text
        assert "\x1b[31m" not in text
        assert "unit, the last lines of its stderr:\n  broken pipe\n" in text
        assert re.search(r"the rest: .*coord'? tasks logs unit", text)
    assert [(one["stream"], one["lines"][-1], one["left_out"]) for one in as_json] == [
        ("stdout", "1 failed", True),
        ("stderr", "broken pipe", False),
    ]
    assert re.fullmatch(r"retry what did not complete: .*coord'? resume nightly --retry", output.splitlines()[-1])
    assert shown.splitlines()[-1] == "retry what did not complete: coord resume nightly --retry"

    (coord.cwd / "mended").touch()
    again = coord.process(*shlex.split(commands_of(shown)[-1])[1:]).out

    assert "shipped" in again


@pytest.mark.own_worker
def test_a_task_without_a_worker_names_the_command_that_starts_one(coord_on_each: Coord, processes: Processes) -> None:
    coord = coord_on_each
    plan = coord.cwd / "plan.yaml"
    plan.write_text("version: 1\nname: lone\ntasks: [{key: b, run: {shell: 'true'}}]\n")
    coord("submit", plan)

    command = commands_of(coord("explain", "b").out)[-1]
    up = processes.start_python(
        "-m", "coordination.cli", *shlex.split(command)[1:], env=coord.environment, cwd=coord.cwd
    )
    until(
        lambda: coord("tasks", "show", "b", "--json").json["state"] == "completed",
        within=timedelta(seconds=patience(60)),
        what="b completed",
    )
    coord.process("down")
    up.wait(within=timedelta(seconds=patience(60)))

    assert command == "coord up"


@pytest.fixture
def coord_on_each(request: pytest.FixtureRequest, store_kind: str, tmp_path: Path) -> Coord:
    """Provide ``coord`` on SQLite, and on PostgreSQL."""
    if store_kind == "sqlite":
        return coord_in(tmp_path)
    return coord_in(tmp_path, COORD_DATABASE_URL=request.getfixturevalue("postgres_url"))
