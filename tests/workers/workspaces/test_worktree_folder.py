"""Test that kept worktrees are deleted when they expire, but never ones in use, nor files of other programs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from coordination.domain.tasks.attempts import Claim
from tests.support.repositories import Checkout, Site
from workers.runners.base import Control
from workers.runners.environment import Scratch
from workers.workspaces import worktree, worktree_folder
from workers.workspaces.git import Git, variables_of
from workers.workspaces.repository import repository_of
from workers.workspaces.worktree_folder import TaskEnd

DAY = timedelta(days=1)


def test_kept_worktrees_go_after_their_time_with_their_records(runners, checkout: Checkout, tmp_path: Path) -> None:
    site = Site(runners, checkout, tmp_path / "site", keep=DAY)
    site.run("a", "exit 1")
    site.run("b", "exit 1", checkout={"kind": "git-worktree", "keep_failed": 60})
    now = time.time()

    assert worktree_folder.sweep(site.root, keep=DAY, now=now + 30) == 0
    assert worktree_folder.sweep(site.root, keep=DAY, now=now + 90) == 1
    assert [Path(path).name for path in checkout.worktrees()] == ["a.1"]
    assert worktree_folder.sweep(site.root, keep=DAY, now=now + 90_000) == 1
    assert (checkout.worktrees(), site.files_left()) == ([], [])
    assert not (checkout.path / ".git" / "worktrees").exists()


def test_what_somebody_works_in_stays_and_what_a_dead_worker_left_goes(checkout: Checkout, tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = worktree_folder.acquire(root, "run", "a.1", common=checkout.path / ".git")
    checkout.git("worktree", "add", "--quiet", "--detach", str(place.path))
    later = time.time() + DAY.total_seconds() + 60

    assert worktree_folder.sweep(root, keep=DAY, now=later) == 0
    assert place.path.exists()
    os.close(place._fd)  # as the end of its process does
    assert worktree_folder.sweep(root, keep=DAY) == 0
    assert worktree_folder.sweep(root, keep=DAY, now=later) == 1
    assert (checkout.worktrees(), list(root.iterdir())) == ([], [])


def test_what_belongs_to_a_completed_task_goes_early(runners, checkout: Checkout, tmp_path: Path) -> None:
    site = Site(runners, checkout, tmp_path / "site", keep=DAY)
    for key in ("done", "failed", "open"):
        site.run(key, "exit 1")
    ends = {
        site.ids["done"]: TaskEnd(completed=True, attempt=2),
        site.ids["failed"]: TaskEnd(completed=False, attempt=1),
    }
    requests: list[str] = []

    def ends_of(owners: Mapping[str, Sequence[str]]) -> dict[str, TaskEnd]:
        requests.extend(task for tasks in owners.values() for task in tasks)
        return ends

    assert worktree_folder.sweep(site.root, keep=DAY, ends=ends_of) == 1

    assert sorted(requests) == sorted(site.ids.values())
    assert [Path(path).name for path in checkout.worktrees()] == ["failed.1", "open.1"]


def test_what_a_lost_attempt_left_goes_with_its_branch_when_its_task_has_ended(
    runners, checkout: Checkout, tmp_path: Path
) -> None:
    site = Site(runners, checkout, tmp_path / "site", keep=DAY)
    for key in ("last", "followed", "open"):
        claim = site.claim(key, "true")
        with site.control() as control:
            lost = worktree.create(
                repository_of(git_for(site, claim, control), claim),
                site.root,
                claim,
                checkout.git("rev-parse", "HEAD"),
                control,
            )
        os.close(lost.worktree_folder._fd)  # as the end of its process does
    ends = {
        site.ids["last"]: TaskEnd(completed=False, attempt=1),
        site.ids["followed"]: TaskEnd(completed=False, attempt=2),
    }

    assert worktree_folder.sweep(site.root, keep=DAY, ends=lambda _: ends) == 2

    assert [Path(path).name for path in checkout.worktrees()] == ["open.1"]
    assert [name.rpartition("/")[2] for name in checkout.branches()] == ["followed", "open"]


def git_for(site: Site, claim: Claim, control: Control) -> Git:
    with Scratch(control.scratch, claim) as scratch:
        variables = variables_of(claim, scratch)
    return Git(site.runners.launcher, claim, control, "/", variables)


def test_a_torn_note_a_vanished_repository_and_strange_files_harm_nothing(checkout: Checkout, tmp_path: Path) -> None:
    root = tmp_path / "root"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (root / "run").mkdir(parents=True)
    (root / "run" / "torn.json").write_text('{"common": ')
    (root / "run" / "gone.json").write_text('{"common": "/nowhere/.git", "until": 1}')
    (root / "run" / "gone").mkdir()
    (root / "run" / "link.json").write_text('{"until": 1}')
    (root / "run" / "link").symlink_to(precious)
    (root / "linked").symlink_to(precious)
    (root / "stray").write_text("x")
    (root / "run" / "not-ours").mkdir()

    assert worktree_folder.sweep(root, keep=DAY, now=time.time() + 2 * DAY.total_seconds()) == 3

    assert sorted(path.name for path in (root / "run").iterdir()) == ["not-ours"]
    assert (precious / "file").exists()
    assert worktree_folder.sweep(tmp_path / "never made", keep=DAY) == 0
