"""Test a worker that is killed at any point, and many that merge at once: each change is there, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.repositories import Checkout, Site, merged_meanwhile
from tests.support.sources import ROOT
from tests.support.speed import patience
from workers.workspaces import worktree_folder

MODULE = "tests.support.killed_attempt"
APPEND = "echo line >> log.txt; echo said"


def killed(site: Site, call: int, *, after: bool, work: Any = APPEND, **more: Any) -> subprocess.CompletedProcess[str]:
    """Start an attempt of the task "a" in a process of its own."""
    site.claim("a", APPEND)
    request = {
        "call": call,
        "after": after,
        "checkout": str(site.checkout.path),
        "site": str(site.folder),
        "run": site.run_id,
        "key": "a",
        "task": site.ids["a"],
        "work": work,
        "more": more,
    }
    return subprocess.run(
        [sys.executable, "-m", MODULE, json.dumps(request)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.timeout(400)
@pytest.mark.full
@pytest.mark.parametrize("way", ["alone", "merged"])
def test_wherever_a_worker_is_killed_the_next_attempt_ends_right(runners, tmp_path: Path, way: str) -> None:
    merging = way == "merged"
    steps = 0
    for after in (False, True):
        call = 1
        while True:
            checkout = Checkout(tmp_path / f"shop {call} {after}")
            site = Site(runners, checkout, tmp_path / f"site {call} {after}")
            work = APPEND
            gates = ["grep -c line log.txt"]
            if merging:
                other = merged_meanwhile(site, "b", "echo other > other.txt")
                work = f"{APPEND}; test -e other.txt || {other}"

            ended = killed(site, call, after=after, work=work, gates=gates)
            second = site.run("a", work, attempt=2, gates=gates)

            assert second.outcome is Outcome.COMPLETED, (call, after, second)
            assert second.output == "said"
            assert checkout.shows("log.txt", on=site.branch) == "line", (call, after)
            subjects = checkout.git("log", "--no-merges", "--format=%s", f"main..{site.branch}").splitlines()
            assert sorted(subjects) == (["Do a", "Do b"] if merging else ["Do a"]), (call, after)
            assert checkout.branches() == [site.branch], (call, after)
            assert not list(checkout.path.glob(".git/**/*.lock")), (call, after)
            worktree_folder.sweep(site.root, keep=timedelta(0), now=time.time() + 1)
            assert (checkout.worktrees(), site.files_left()) == ([], []), (call, after)
            checkout.git("fsck", "--strict")
            assert checkout.is_untouched()
            steps += 1
            if ended.returncode == 0:
                assert json.loads(ended.stdout)["calls"] < call
                break
            assert ended.returncode == -9, ended.stderr
            call += 1
    assert steps > 20


def test_locks_that_a_killed_git_left_are_in_nobodys_way(site: Site, checkout: Checkout) -> None:
    site.run("first", "echo first > first.txt")
    lock = checkout.path / ".git" / "refs" / "heads" / f"{site.branch}.lock"
    lock.write_text("")
    result = site.run("a", {"agent": "custom", "prompt": "x", "command": ["/bin/sh", "-c", "echo said; touch a.txt"]})
    assert (result.outcome, sorted(result.carry_over)) == (Outcome.DEFERRED, ["merge"])  # another process may use it
    os.utime(lock, (time.time() - 600,) * 2)

    again = site.again("a", "touch ran-again", result)

    assert (again.outcome, again.output) == (Outcome.COMPLETED, "said")
    assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["a.txt", "first.txt", "readme.txt"]


def test_a_lock_on_the_index_that_a_job_left_is_in_nobodys_way(site: Site) -> None:
    result = site.run("a", 'echo a > a.txt; touch "$(git rev-parse --git-dir)/index.lock"')

    assert result.outcome is Outcome.COMPLETED, result


@pytest.mark.timeout(300)
def test_twenty_that_merge_at_once_from_three_processes_all_land(
    runners, checkout: Checkout, tmp_path: Path, processes
) -> None:
    site = Site(runners, checkout, tmp_path / "site")
    gate = "test -e readme.txt"
    site.run("begin", "true")
    others = [
        processes.start_python(
            *("-m", "tests.support.merging_worker", checkout.path, tmp_path / "site", site.run_id, f"p{number}", gate),
            cwd=ROOT,
        )
        for number in range(2)
    ]
    with ThreadPoolExecutor(8) as pool:
        mine = list(pool.map(lambda n: site.run(f"m{n}", f"echo {n} > m{n}.txt", gates=[gate]), range(8)))

    for other in others:
        assert other.wait() == 0, other.output
        assert other.output.split() == ["completed"] * 6
    assert [result.outcome for result in mine] == [Outcome.COMPLETED] * 8, mine
    names = checkout.git("ls-tree", "--name-only", site.branch).split()
    assert len(names) == 21
    subjects = checkout.git("log", "--first-parent", "--format=%s", site.branch).splitlines()
    assert len(subjects) == len(set(subjects)) == 21
    assert (checkout.branches(), checkout.worktrees(), site.files_left()) == ([site.branch], [], [])
    checkout.git("fsck", "--strict")
    assert checkout.is_untouched()


def test_two_attempts_of_one_task_never_both_merge(site: Site, checkout: Checkout) -> None:
    """Test that only one merges: the first was considered lost and ended all the same, before and after the second."""
    late = threading.Event()
    results = []

    def first() -> None:
        claim = site.claim("a", "echo begun > begun; while ! test -e go; do sleep 0.02; done; rm go begun; " + APPEND)
        with site.control() as control:
            results.append(site.attempt(claim, control))
        late.set()

    thread = threading.Thread(target=first)
    thread.start()
    place = site.root / site.run_id[-12:] / "a.1"
    while not (place / "begun").exists():
        thread.join(0.01)
        assert thread.is_alive()

    second = site.run("a", APPEND, attempt=2, stored=False)
    (place / "go").write_text("")
    assert late.wait(patience(60))
    thread.join()

    assert second.outcome is Outcome.COMPLETED
    assert results[0].outcome is not Outcome.COMPLETED, results
    assert checkout.shows("log.txt", on=site.branch) == "line"
