"""Test tasks in worktrees of a real repository, by real workers: all merged, nothing left, the checkout undisturbed."""

from __future__ import annotations

import signal
from datetime import timedelta

import psutil
import pytest

from coordination.domain.plans.plans import Defaults, Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import RunState, TaskState
from tests.support.command import Coord
from tests.support.fleet import Fleet
from tests.support.jobs import FUNCTIONS
from tests.support.processes import until
from tests.support.repositories import Checkout

WORKTREE = Defaults(checkout="git-worktree", backoff=Backoff(timedelta(milliseconds=50)))


@pytest.fixture
def checkout(fleet: Fleet) -> Checkout:
    return Checkout(fleet.folder / "project")


def leftovers(fleet: Fleet, checkout: Checkout) -> list[str]:
    worktrees = fleet.folder / "home" / "worktrees"
    paths = [str(path) for path in worktrees.rglob("*")] if worktrees.exists() else []
    running = [
        " ".join(process.cmdline())
        for process in psutil.Process().children(recursive=True)
        if process.name() in {"git", "sleep"} and process.status() != psutil.STATUS_ZOMBIE
    ]
    ours = checkout.path / ".git" / "coordination"
    return [*paths, *running, *checkout.worktrees(), *([str(ours)] if ours.exists() else [])]


@pytest.mark.smoke
def test_five_tasks_at_once_are_all_on_the_runs_branch_in_a_sane_history(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "4")
    fleet.worker("-c", "4")
    keys = [f"part-{number}" for number in range(5)]
    parts = [Task(key, {"shell": f"echo {key} > {key}.txt; echo {key}"}, title=f"Write {key}") for key in keys]
    report = Task("report", {"shell": "cat *.txt"}, needs=keys, gates=["test $(ls *.txt | wc -l) -eq 6"])

    run = fleet.submit(*parts, report, defaults=WORKTREE, gates=["grep -q hello readme.txt"])

    assert run.wait(timeout=60) is RunState.COMPLETED
    branch = run.record.branch
    assert branch is not None
    assert run.task("report").output.split() == [*keys, "hello"]
    subjects = checkout.git("log", "--first-parent", "--format=%s", branch).splitlines()
    assert sorted(subjects) == ["Begin", *(f"Write {key}" for key in keys)]
    assert checkout.git("log", "--format=%s", "main") == "Begin"
    assert checkout.branches() == [branch]
    assert checkout.is_untouched()
    until(lambda: not leftovers(fleet, checkout), what=f"nothing is left: {leftovers(fleet, checkout)}")
    coord = Coord(home=fleet.folder / "home", cwd=fleet.folder, settings=fleet.env)
    assert f"git merge {branch}" in coord("runs", "show", run.id).out
    checkout.git("merge", "--quiet", "--no-edit", branch)
    assert "git merge" not in coord("runs", "show", run.id).out
    assert (checkout.path / "part-4.txt").read_text() == "part-4\n"


def test_a_failed_gate_is_told_to_the_next_attempt_and_its_worktree_goes_with_that(
    fleet: Fleet, checkout: Checkout
) -> None:
    fleet.worker("-c", "2")
    once = fleet.folder / "once"
    gate = f"test -e {once} || {{ touch {once}; echo not yet; exit 7; }}"

    run = fleet.submit(
        Task("a", {"shell": "echo a > a.txt"}, gates=[{"run": gate, "name": "twice"}], max_attempts=2),
        Task("plain", {"python": "job_functions:say"}, checkout="folder", gates=["false"]),
        defaults=WORKTREE,
        python_path=[str(FUNCTIONS)],
    )

    assert run.wait(timeout=60) is RunState.FAILED
    attempts = run.task("a").attempts()
    assert [attempt.error for attempt in attempts] == ["gate 'twice' failed: exit status 7", None]
    assert "not yet" in (attempts[0].log or "")
    assert run.task("a").state is TaskState.COMPLETED
    assert run.task("plain").error == "gate 'false' failed: exit status 1"
    assert checkout.worktrees() == []  # that of the failed attempt was deleted when its task completed
    assert checkout.git("ls-tree", "--name-only", str(run.record.branch)).split() == ["a.txt", "readme.txt"]


def test_short_python_jobs_with_gates_never_run_together(fleet: Fleet, checkout: Checkout) -> None:
    fleet.worker("-c", "1")
    (checkout.path / "fill.py").write_text(
        "from pathlib import Path\ndef fill(name):\n    Path(name).write_text('x')\n    return name\n"
    )
    checkout.commit("A job")
    plain = [
        Task(f"p{number}", {"python": "fill:fill", "args": {"name": "p"}}, checkout="folder") for number in range(9)
    ]
    chain = [
        Task(
            f"w{number}",
            {"python": "fill:fill", "args": {"name": f"w{number}"}},
            needs=[f"w{number - 1}"] if number else [],
        )
        for number in range(4)
    ]

    run = fleet.submit(*plain, *chain, defaults=WORKTREE, gates=["ls w*"])

    assert run.wait(timeout=60) is RunState.COMPLETED
    names = checkout.git("ls-tree", "--name-only", str(run.record.branch)).split()
    assert [name for name in names if name.startswith("w")] == ["w0", "w1", "w2", "w3"]


@pytest.mark.expiring
def test_a_worker_killed_in_the_middle_leaves_nothing_that_is_in_the_way(fleet: Fleet, checkout: Checkout) -> None:
    worker = fleet.worker("-c", "2", COORD_WORKTREES_KEPT="1s", COORD_RETENTION_EVERY="1s")
    mark = fleet.folder / "mark"
    script = f"echo line >> log.txt; test -e {mark} || {{ touch {mark}; sleep 600; }}"
    run = fleet.submit(Task("a", {"shell": script}), defaults=WORKTREE)
    until(mark.exists, what="the job runs")

    worker.signal(signal.SIGKILL)
    fleet.worker("-c", "2", COORD_WORKTREES_KEPT="1s", COORD_RETENTION_EVERY="1s")

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert checkout.shows("log.txt", on=str(run.record.branch)) == "line"
    fleet.await_event(run, EventType.HEARTBEAT_LOST)
    until(lambda: not leftovers(fleet, checkout), what="the dead worker's worktree is swept")
    assert checkout.is_untouched()


def test_gates_of_a_project_are_set_by_command_and_hold_for_what_is_submitted_then(
    fleet: Fleet, checkout: Checkout
) -> None:
    fleet.worker("-c", "2")
    first = fleet.submit(Task("a", {"shell": "touch a.txt"}), defaults=WORKTREE)
    assert first.wait(timeout=60) is RunState.COMPLETED
    coord = Coord(home=fleet.folder / "home", cwd=fleet.folder, settings=fleet.env)
    coord("projects", "gates", "fleet", "test -e never")

    second = fleet.submit(
        Task("a", {"shell": "touch a.txt"}), Task("b", {"shell": "true"}, checkout="folder"), defaults=WORKTREE
    )

    assert second.wait(timeout=60) is RunState.FAILED
    assert second.task("a").error == "gate 'test -e never' failed: exit status 1"
    assert second.task("b").state is TaskState.COMPLETED
