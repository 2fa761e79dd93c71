"""Test that jobs in the ordinary sandbox cannot read hidden files: by rules of the kernel, without namespaces."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.services import without_landlock
from workers.runners import sandbox_exec
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy


@pytest.fixture(autouse=True)
def _kernel() -> None:
    if not sandbox_exec.version():
        without_landlock()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "user" / "home"
    (folder / "scratch").mkdir(parents=True)
    (folder / "worktrees" / "one").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("coordination.db", "coordination.db-wal", "redis.conf", "bin/coord"):
        (folder / name).write_text("secret")
    return folder


@pytest.fixture
def hiding(tmp_path: Path, home: Path) -> Iterator[Bench]:
    token = tmp_path / "user" / "token"
    token.write_text("secret")
    (tmp_path / "user" / "place").mkdir()
    (tmp_path / "user" / "notes").write_text("open to read")
    hide = [str(home), str(token), str(tmp_path / "user" / "elsewhere.db")]
    sandbox = SandboxPolicy(home / "scratch" / "w", hide=hide, read=[str(home / "bin")], required=True)
    runners = Runners(sandbox=sandbox)
    bench = Bench(runners, home / "scratch" / "w")
    yield bench
    runners.close()
    assert bench.left_behind() == []


def shell(bench: Bench, command: str, folder: Path) -> tuple[Outcome, str]:
    result = bench.run({"shell": command}, workdir=str(folder))
    return result.outcome, f"{result.output or ''}{result.log or ''}"


@pytest.mark.parametrize(
    "path",
    [
        "../home/coordination.db",
        "../home/coordination.db-wal",
        "../home/redis.conf",
        "../token",
        "../home/worktrees/other/file",
        "../home/scratch/other",
        "link/coordination.db",
        "../elsewhere.db",
    ],
)
def test_it_does_not_read_what_is_hidden(hiding: Bench, home: Path, tmp_path: Path, path: str) -> None:
    place = tmp_path / "user" / "place"
    (place / "link").symlink_to(home)
    (home / "worktrees" / "other").mkdir()
    for other in ("worktrees/other/file", "scratch/other", "../elsewhere.db"):
        (home / other).write_text("secret")

    outcome, output = shell(hiding, f"cat {path}", place)

    assert (outcome, "ermission denied" in output, "secret" in output) == (Outcome.FAILED, True, False), output


@pytest.mark.parametrize(
    "how", ["ln ../token here && cat here", "mv ../token here && cat here", "ln -s ../token here; cat here"]
)
def test_no_other_name_opens_it(hiding: Bench, tmp_path: Path, how: str) -> None:
    outcome, output = shell(hiding, how, tmp_path / "user" / "place")

    assert (outcome, "secret" in output) == (Outcome.FAILED, False), output


def test_it_reads_all_else(hiding: Bench, tmp_path: Path) -> None:
    outcome, output = shell(
        hiding,
        "cat ../notes ../home/bin/coord && ls ../home && head -c 1 /proc/self/status /etc/passwd /dev/null",
        tmp_path / "user" / "place",
    )

    assert (outcome, "open to read" in output) == (Outcome.COMPLETED, True), output


def test_it_works_below_what_is_hidden(hiding: Bench, home: Path) -> None:
    place = home / "worktrees" / "one"
    (place / "own").write_text("mine")

    outcome, output = shell(
        hiding, 'cat own && echo x > new && cat new && echo y > "$TMPDIR/y" && cat "$TMPDIR/y" "$COORD_INPUT"', place
    )

    assert outcome is Outcome.COMPLETED, output
    assert output.startswith("mine")


def test_functions_do_not_read_it_either(hiding: Bench, tmp_path: Path) -> None:
    place = tmp_path / "user" / "place"
    (place / "job.py").write_text("def look(path):\n    return open(path).read()\n")
    job = {"workdir": str(place), "python_path": (str(place),)}

    hidden = hiding.run({"python": "job:look", "args": {"path": "../token"}}, **job)
    other = hiding.run({"python": "job:look", "args": {"path": "../notes"}}, **job)

    assert (hidden.outcome, "PermissionError" in (hidden.error or "")) == (Outcome.FAILED, True)
    assert (other.outcome, other.output) == (Outcome.COMPLETED, "open to read")


def test_a_module_path_that_is_a_link_below_it_stops_no_job_and_opens_nothing(hiding: Bench, home: Path) -> None:
    place = home / "worktrees" / "one"
    (place / "job.py").write_text("def look(path):\n    return open(path).read()\n")
    (place / "library").symlink_to(home / "bin")
    job = {"workdir": str(place), "python_path": (str(place), str(place / "library"), str(home / "scratch"))}
    (place / "out").symlink_to(home)
    out = {"workdir": str(place), "python_path": (str(place), str(place / "out"))}

    same = hiding.run({"python": "job:look", "args": {"path": "job.py"}}, **job)
    hidden = hiding.run({"python": "job:look", "args": {"path": "out/redis.conf"}}, **out)

    assert same.outcome is Outcome.COMPLETED, same.error
    assert "PermissionError" in (hidden.error or "")


def test_git_in_a_worktree_below_it_works(hiding: Bench, home: Path, tmp_path: Path) -> None:
    repository = tmp_path / "user" / "place"
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (
        ["init", "-q"],
        [*me, "commit", "-q", "--allow-empty", "-m", "first"],
        ["worktree", "add", "-q", str(home / "worktrees" / "two")],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)

    commit = "git -c user.name=a -c user.email=a@example.org commit -q -m second"
    outcome, output = shell(hiding, f"touch a && git add a && {commit}", home / "worktrees" / "two")

    assert outcome is Outcome.COMPLETED, output
