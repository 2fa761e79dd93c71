"""Test a worker that confines its jobs: what they can and cannot do; and a worker that must confine and cannot."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from coordination.domain.jobs.checkouts import Checkout, CheckoutKind, run_branch
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import Processes
from tests.support.sources import ROOT
from tests.support.strict import ORDINARY, STRICT, needs

pytestmark = pytest.mark.stores("sqlite")

COORD = shlex.quote(str(Path(sys.executable).with_name("coord")))

WITHOUT_LANDLOCK = """
import sys
from workers.runners import sandbox_exec as confine
confine.version = lambda: 0
from workers.__main__ import main
sys.exit(main(["-c", "2"]))
"""


@pytest.fixture(params=[ORDINARY, STRICT], ids=["ordinary", "strict"])
def sandbox(request: pytest.FixtureRequest) -> dict[str, str]:
    """Provide the sandbox setting of a worker."""
    needs(request.param)
    sandbox_kind: dict[str, str] = request.param
    return sandbox_kind


def test_jobs_change_their_project_and_nothing_else_and_report_as_ever(
    fleet: Fleet, tmp_path: Path, sandbox: dict[str, str]
) -> None:
    (tmp_path / "cache").mkdir()
    report = f"{COORD} task progress halfway && echo well > inside && echo kept > ../cache/x"
    run = fleet.submit(
        Task("reports", {"shell": report}, gates=["test -e inside"]),
        Task("strays", {"shell": "echo bad > ../outside"}),
        Task("gated", {"shell": "true"}, gates=["echo bad > ../outside"]),
        Task("artifact", {"shell": "echo made > made.txt"}, outputs=["made.txt"]),
    )
    fleet.worker("-c", "2", **sandbox, COORD_SANDBOX_WRITE=str(tmp_path / "cache"))

    assert run.wait(timeout=60) is RunState.FAILED
    states = {task.key: str(task.state) for task in run.tasks()}
    assert states == {"reports": "completed", "strays": "failed", "gated": "failed", "artifact": "completed"}
    (strayed,) = run.task("strays").attempts()
    assert strayed.outcome is Outcome.FAILED
    assert strayed.error is not None
    assert "ermission denied" in strayed.error
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "cache" / "x").read_text() == "kept\n"


def test_worktrees_are_made_merged_and_taken_away_in_a_sandbox(
    fleet: Fleet, tmp_path: Path, sandbox: dict[str, str]
) -> None:
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], [*me, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], cwd=fleet.folder / "project", check=True)
    worktree = Checkout(CheckoutKind.GIT_WORKTREE)
    run = fleet.submit(
        Task("one", {"shell": "echo 1 > one"}, checkout=worktree, gates=["test -e one"]),
        Task("two", {"shell": "echo 2 > two"}, checkout=worktree),
        Task("strays", {"shell": "echo 3 > three; echo bad > ../../outside"}, checkout=worktree),
    )
    fleet.worker("-c", "2", **sandbox)

    assert run.wait(timeout=60) is RunState.FAILED
    states = {task.key: (str(task.state), task.attempts()[-1].error) for task in run.tasks()}
    assert states["one"] == states["two"] == ("completed", None)
    assert states["strays"][0] == "failed"
    merged = subprocess.run(
        ["git", "ls-tree", "--name-only", run_branch(run.id)],
        cwd=fleet.folder / "project",
        check=True,
        capture_output=True,
        text=True,
    )
    assert merged.stdout.split() == ["one", "two"]
    assert not list(tmp_path.glob("**/outside"))


def test_a_worker_that_must_confine_jobs_and_cannot_takes_none(fleet: Fleet, processes: Processes) -> None:
    run = fleet.submit(Task("a", {"shell": "touch began"}))
    environment = {**fleet.env, "COORD_REQUIRE_SANDBOX": "1", "PYTHONPATH": str(ROOT)}

    worker = processes.start_python("-c", WITHOUT_LANDLOCK, env=environment)

    worker.wait_for("coord worker: COORD_REQUIRE_SANDBOX is set, and this kernel cannot confine jobs")
    assert worker.wait() == 2
    assert str(run.task("a").state) == "queued"
    assert not fleet.file("began").exists()


def test_jobs_read_neither_the_store_nor_the_home_folder(fleet: Fleet, tmp_path: Path, sandbox: dict[str, str]) -> None:
    (tmp_path / "token").write_text("secret")
    (Path(fleet.env["COORD_HOME"]) / "note").write_text("secret")
    store = fleet.env["COORD_DATABASE_URL"].removeprefix("sqlite:///")
    files = f"{tmp_path}/token {tmp_path}/home/note {store}*"
    look = f"for file in {files}; do head -c 1 $file > /dev/null && echo $file; done"
    run = fleet.submit(
        Task("looks", {"shell": f"{look}; true"}), Task("reports", {"shell": f"{COORD} task progress well"})
    )
    fleet.worker("-c", "2", **sandbox, COORD_SANDBOX_HIDE=str(tmp_path / "token"))

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("looks").output in (None, "")


WITHOUT_BWRAP = WITHOUT_LANDLOCK.replace(
    "confine.version = lambda: 0", "import shutil\nshutil.which = lambda *_, **_more: None"
)


def test_a_worker_that_is_to_be_strict_and_has_no_bubblewrap_takes_no_job(fleet: Fleet, processes: Processes) -> None:
    run = fleet.submit(Task("a", {"shell": "touch began"}))
    environment = {**fleet.env, "COORD_SANDBOX": "strict", "PYTHONPATH": str(ROOT)}

    worker = processes.start_python("-c", WITHOUT_BWRAP, env=environment)

    worker.wait_for("coord worker: COORD_SANDBOX is strict, and bubblewrap .bwrap. is not installed")
    worker.wait_for("Run: apt install bubblewrap")
    assert worker.wait() == 2
    assert str(run.task("a").state) == "queued"
    assert not fleet.file("began").exists()
