"""What is kept goes when its time has come; what somebody works in never does, nor what is not ours."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from tests.support.repositories import Checkout, Site
from workers.workspaces import lodging

DAY = timedelta(days=1)


def test_kept_worktrees_go_after_their_time_with_their_records(runners, checkout: Checkout, tmp_path: Path) -> None:
    site = Site(runners, checkout, tmp_path / "site", keep=DAY)
    site.run("a", "exit 1")
    site.run("b", "exit 1", workspace={"kind": "git-worktree", "keep_failed": 60})
    now = time.time()

    assert lodging.sweep(site.root, keep=DAY, now=now + 30) == 0
    assert lodging.sweep(site.root, keep=DAY, now=now + 90) == 1
    assert [Path(path).name for path in checkout.worktrees()] == ["a.1"]
    assert lodging.sweep(site.root, keep=DAY, now=now + 90_000) == 1
    assert (checkout.worktrees(), site.files_left()) == ([], [])
    assert not (checkout.path / ".git" / "worktrees").exists()


def test_what_somebody_works_in_stays_and_what_a_dead_worker_left_goes(checkout: Checkout, tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = lodging.take(root, "run", "a.1", common=checkout.path / ".git")
    checkout.git("worktree", "add", "--quiet", "--detach", str(place.path))
    later = time.time() + DAY.total_seconds() + 60

    assert lodging.sweep(root, keep=DAY, now=later) == 0
    assert place.path.exists()
    os.close(place._fd)  # as the end of its process does
    assert lodging.sweep(root, keep=DAY) == 0
    assert lodging.sweep(root, keep=DAY, now=later) == 1
    assert (checkout.worktrees(), list(root.iterdir())) == ([], [])


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

    assert lodging.sweep(root, keep=DAY, now=time.time() + 2 * DAY.total_seconds()) == 3

    assert sorted(path.name for path in (root / "run").iterdir()) == ["not-ours"]
    assert (precious / "file").exists()
    assert lodging.sweep(tmp_path / "never made", keep=DAY) == 0
