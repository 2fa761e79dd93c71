"""Test agents with conflicts and killed workers on a repository, in each state that a checkout may be in."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Plan, ProjectRef, Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet
from tests.support.processes import until

AGENTS = 4
OF_ONE_LINE = 2

pytestmark = [pytest.mark.full, pytest.mark.stores("sqlite"), pytest.mark.timeout(300)]


def git(folder: Path, *arguments: str, check: bool = True) -> str:
    named = ["-c", "user.name=ann", "-c", "user.email=ann@example.org", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *named, *arguments], cwd=folder, check=check, capture_output=True, text=True)
    return done.stdout


def dirty(checkout: Path) -> None:
    (checkout / "words.txt").write_text("half a thought\n")
    (checkout / "staged.txt").write_text("staged\n")
    (checkout / "new.txt").write_text("untracked\n")
    git(checkout, "add", "staged.txt")
    (checkout / "staged.txt").write_text("and changed since\n")


def detached(checkout: Path) -> None:
    git(checkout, "checkout", "-q", "--detach", "HEAD")


def mid_merge(checkout: Path) -> None:
    for branch, word in (("theirs", "theirs"), ("main", "ours")):
        git(checkout, "checkout", "-q", *(["-b", branch] if branch != "main" else [branch]))
        (checkout / "words.txt").write_text(f"{word}\n")
        git(checkout, "commit", "-qam", word)
    git(checkout, "merge", "theirs", check=False)
    assert (checkout / ".git" / "MERGE_HEAD").exists()


def mid_rebase(checkout: Path) -> None:
    mid_merge(checkout)
    git(checkout, "merge", "--abort")
    git(checkout, "rebase", "theirs", check=False)
    assert (checkout / ".git" / "rebase-merge").exists()


def sparse(checkout: Path) -> None:
    git(checkout, "sparse-checkout", "set", "docs")


def with_a_stash(checkout: Path) -> None:
    (checkout / "words.txt").write_text("put aside\n")
    git(checkout, "stash")


def hooks_that_fail(checkout: Path) -> None:
    for name in (
        "pre-commit",
        "commit-msg",
        "post-checkout",
        "pre-merge-commit",
        "reference-transaction",
        "post-merge",
    ):
        hook = checkout / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)


def odd_names(checkout: Path) -> None:
    for name in ("a b.txt", "-n", "ö.txt", 'quote".txt', "new\nline.txt", "tab\t.txt", ":colon", "*star", "coord"):
        (checkout / name).write_text("odd\n")
    git(checkout, "add", "--all", "--", ".")
    git(checkout, "commit", "-qm", "odd names")


def large_file(checkout: Path) -> None:
    with (checkout / "large.bin").open("wb") as file:
        file.truncate(40_000_000)
    git(checkout, "add", "large.bin")
    git(checkout, "commit", "-qm", "a large file")


STATES: dict[str, Callable[[Path], None]] = {
    state.__name__: state
    for state in (
        *(dirty, detached, mid_merge, mid_rebase, sparse, with_a_stash, hooks_that_fail, odd_names, large_file),
    )
}


def seen_by_the_person(checkout: Path) -> tuple[str, ...]:
    """Return the person's state: files, index, HEAD, branches except ours, stashes, configuration, operations."""
    files = sorted(path for path in checkout.rglob("*") if path.is_file() and ".git" not in path.parts)
    content = [f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    folder = Path(git(checkout, "rev-parse", "--absolute-git-dir").strip())
    going_on = sorted(name.name for name in folder.iterdir() if name.name.isupper() or name.name.startswith("rebase"))
    refs = [line for line in git(checkout, "for-each-ref").splitlines() if "refs/heads/coord/" not in line]
    return (
        "\n".join(content),
        git(checkout, "status", "--porcelain=v2", "--branch"),
        git(checkout, "ls-files", "--stage"),
        "\n".join(refs),
        git(checkout, "stash", "list"),
        (folder / "config").read_text(),
        "\n".join(name for name in going_on if name != "AUTO_MERGE"),
    )


def agent(folder: Path, key: str, *lines: str) -> AgentCall:
    path = folder / key
    path.write_text("\n".join(["#!/bin/sh", "cat > /dev/null", *lines, "echo did it"]))
    path.chmod(0o755)
    return AgentCall("custom", f"Be {key}", command=[str(path)])


@pytest.mark.expiring
@pytest.mark.parametrize("state", [*STATES, "shallow"])
def test_every_change_lands_once_and_the_persons_checkout_is_as_it_was(
    fleet: Fleet, tmp_path: Path, state: str
) -> None:
    checkout = fleet.folder / "project"
    git(checkout, "init", "-q", "-b", "main")
    (checkout / "docs").mkdir()
    for name in ("words.txt", "docs/read.txt"):
        (checkout / name).write_text("hello\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "begin")
    if state == "shallow":
        (checkout / "words.txt").write_text("hello again\n")
        git(checkout, "commit", "-qam", "more")
        origin, checkout = checkout, tmp_path / "a shallow clone"
        git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), str(checkout))
    else:
        STATES[state](checkout)
    before = seen_by_the_person(checkout)
    began = git(checkout, "rev-parse", "HEAD").strip()
    folder = tmp_path / "agents"
    folder.mkdir()
    both = "grep -hv '^[<=>|]' shared.txt | sort -u > s; mv s shared.txt"
    resolve = f"if grep -q '<<<<<<<' shared.txt 2>/dev/null; then {both}; exit 0; fi"
    keys = [f"t{number}" for number in range(AGENTS)]
    work = {
        key: f"sleep 1; echo {key} >> shared.txt" if number < OF_ONE_LINE else f"sleep 1; echo {key} > made.{key}"
        for number, key in enumerate(keys)
    }
    tasks = [
        Task(key, agent(folder, key, resolve, work[key]), checkout={"kind": "git-worktree", "keep_failed": 0})
        for key in keys
    ]
    victim = fleet.worker("-c", "2")
    fleet.worker("-c", "4")
    run = fleet.co.submit(Plan(tasks, project=ProjectRef(name="beside", path=str(checkout))))

    until(lambda: any(task.attempts() for task in run.tasks()), what="the first agents at work")
    time.sleep(0.5)
    victim.kill()

    ended = run.wait(timeout=240)
    wrong = {task.key: [one.error for one in task.attempts()] for task in run.tasks() if task.state != "completed"}
    assert (ended, wrong) == (RunState.COMPLETED, {})
    branch = run.record.branch
    assert branch is not None
    added = git(checkout, "diff", "--name-only", began, branch).split()
    assert sorted(added) == sorted(["shared.txt", *(f"made.{key}" for key in keys[OF_ONE_LINE:])])
    assert sorted(git(checkout, "show", f"{branch}:shared.txt").split()) == keys[:OF_ONE_LINE]
    assert seen_by_the_person(checkout) == before
    assert git(checkout, "for-each-ref", "--format=%(refname:short)", "refs/heads/coord").split() == [branch]
    assert git(checkout, "worktree", "list").count("\n") == 1
    git(checkout, "fsck", "--strict", "--no-dangling")
    failures = [one for task in run.tasks() for one in task.attempts() if one.outcome is Outcome.FAILED]
    assert failures == []
    left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False).stdout
    assert left == ""
