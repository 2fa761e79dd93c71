"""Test that files which jobs write into the repository neither decide a result nor redirect the worker."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.repositories import Checkout, Site
from tests.support.services import without_landlock
from workers.runners import sandbox_exec, untrusted_files
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy
from workers.workspaces import merge_lock

COMMON = "$(git rev-parse --path-format=absolute --git-common-dir)"


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Provide a folder of the user that no job may change."""
    folder = tmp_path / "victim"
    (folder / "logs").mkdir(parents=True)
    for name in ("precious", "MERGE_HEAD", "index", "index.lock", "logs/precious"):
        (folder / name).write_text("all of it")
    yield folder
    paths = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert paths == dict.fromkeys(("precious", "MERGE_HEAD", "index", "index.lock", "logs/precious"), "all of it")


@pytest.mark.parametrize("place", ["coordination/landed", "coordination/merges", "coordination"])
def test_a_note_in_the_repository_completes_no_task(site: Site, checkout: Checkout, tmp_path: Path, place: str) -> None:
    site.run("evil", "echo new > b.txt")
    head = checkout.git("rev-parse", site.branch)
    claim = site.claim("check", f"touch '{tmp_path}/ran'; echo new > c.txt", gates=["false"], attempt=2)
    note = {"commit": head, "attempt": 1, "output": "FORGED", "exit_code": 0, "log": "", "artifacts": []}
    folder = checkout.path / ".git" / place
    folder.mkdir(parents=True)
    (folder / f"{claim.task_id}.json").write_text(json.dumps(note))

    with site.control() as control:
        result = site.attempt(claim, control)

    assert (result.outcome, (tmp_path / "ran").exists()) == (Outcome.FAILED, True), result


def test_nothing_of_ours_is_written_to_the_repository(site: Site, checkout: Checkout, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    gate = f"ls -R {shlex.quote(str(checkout.path / '.git'))} >> {shlex.quote(str(seen))}"

    result = site.run("a", "echo a > a.txt", gates=[gate], stored=False)

    assert result.outcome is Outcome.COMPLETED
    assert "coordination" not in seen.read_text()
    assert not (checkout.path / ".git" / "coordination").exists()


def test_a_change_that_a_job_merged_by_itself_has_to_pass_its_gates(site: Site, checkout: Checkout) -> None:
    """Stop an attempt before its gates; another job moves the run's branch to that attempt's commit."""
    site.run("first", "echo 1 > first.txt")
    checkout.git("branch", "made", site.branch)
    site.run("second", "echo 2 > second.txt")
    commit = checkout.git("rev-parse", site.branch)
    pending = {"commit": commit, "base": checkout.git("rev-parse", "made"), "tested": False, "output": "FORGED"}
    checkout.git("branch", "-D", "made")
    checkout.note()

    result = site.run("check", "true", gates=["false"], carried_over={"merge": pending}, attempt=2)

    assert (result.outcome, "false" in (result.error or "")) == (Outcome.FAILED, True), result


@pytest.mark.parametrize("where", ["queue/zzz", "queue/zzz/link", "landed/x.json"])
def test_a_link_in_the_repository_deletes_nothing(site: Site, checkout: Checkout, victim: Path, where: str) -> None:
    link = f'"{COMMON}/coordination/{where}"'

    result = site.run("a", f"mkdir -p {link}; rmdir {link}; ln -s {shlex.quote(str(victim))} {link}; echo a > a.txt")

    assert result.outcome is Outcome.COMPLETED, result
    assert (checkout.path / ".git" / "coordination" / where).is_symlink()


@pytest.mark.parametrize(
    "leaves",
    [
        'ln -s {victim} "$d/rebase-merge-not"; rm -rf "$d/logs"; ln -s {victim}/logs "$d/logs"',
        'ln -sf {victim}/precious "$d/AUTO_MERGE"; ln -sf {victim}/precious "$d/coordination-index"',
        'mkdir "$c/worktrees/out"; echo {victim}/.git > "$c/worktrees/out/gitdir"',
        'mkdir "$c/worktrees/out"; echo "$PWD/../../../victim/.git" > "$c/worktrees/out/gitdir"',
        'cp -r "$d" "$c/worktrees/out"; echo "$PWD/../../../../victim/.git" > "$c/worktrees/out/gitdir"',
        'ln -s {victim} "$c/worktrees/out"',
        'mkfifo "$c/worktrees/fifo" "$d/AUTO_MERGE" "$c/info/exclude-not"',
        'mkdir "$c/worktrees/out"; head -c 9000000 /dev/zero > "$c/worktrees/out/gitdir"',
        "mkdir -p deep; ln -s {victim} deep/link; ln {victim}/precious deep/hard; chmod 0 deep",
        "rm .git; ln -s {victim} .git",
        "rm .git; mkfifo .git",
    ],
)
def test_what_a_job_leaves_in_the_records_of_worktrees_leads_nowhere(site: Site, victim: Path, leaves: str) -> None:
    script = f'd=$(git rev-parse --path-format=absolute --git-dir); c="{COMMON}"'

    site.run("a", f"echo a > a.txt; {script}; {leaves.format(victim=shlex.quote(str(victim)))}")
    second = site.run("b", "echo b > b.txt")

    assert second.outcome is Outcome.COMPLETED, second
    assert site.files_left() == []


def test_records_behind_a_link_are_nobodys_to_take_away(site: Site, checkout: Checkout, tmp_path: Path) -> None:
    """Let a job move the folder of all records away and put a link in its place."""
    elsewhere = tmp_path / "elsewhere"
    site.run("a", f'c={COMMON}; mv "$c/worktrees" "{elsewhere}"; ln -s "{elsewhere}" "$c/worktrees"; echo a > a.txt')

    assert [path.name for path in elsewhere.iterdir()] == ["a.1"]
    (checkout.path / ".git" / "worktrees").unlink()


class TestConfined:
    @pytest.fixture
    def confined(self, checkout: Checkout, tmp_path: Path) -> Iterator[Site]:
        if not sandbox_exec.version():
            without_landlock()
        (tmp_path / "the site" / "scratch").mkdir(parents=True)
        runners = Runners(sandbox=SandboxPolicy(tmp_path / "the site" / "scratch", required=True))
        yield Site(runners, checkout, tmp_path / "the site")
        runners.close()

    def test_a_job_in_a_worktree_is_merged(self, confined: Site, checkout: Checkout) -> None:
        result = confined.run(
            "a", "echo a > a.txt; git add a.txt; git commit -qm a; echo b > b.txt", gates=["test -e b.txt"]
        )

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("b.txt", on=confined.branch) == "b"
        assert confined.files_left() == []

    def test_also_without_the_link_to_its_repository(self, confined: Site, checkout: Checkout) -> None:
        result = confined.run("a", "echo a > a.txt; rm .git")

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("a.txt", on=confined.branch) == "a"

    @pytest.mark.parametrize(
        "where", ["{root}/forged", "{root}/*/note.json", "{root}/.locks/forged", "{checkout}/forged"]
    )
    def test_a_filter_that_a_job_left_writes_to_its_own_worktree_only(
        self, confined: Site, checkout: Checkout, tmp_path: Path, where: str
    ) -> None:
        (confined.root / ".locks").mkdir(parents=True)
        (confined.root / confined.run_id[-12:]).mkdir()
        place = where.format(root=confined.root, checkout=checkout.path).replace("*", confined.run_id[-12:])
        program = tmp_path / "filter.sh"
        program.write_text(f"#!/bin/sh\ntouch {shlex.quote(place)}\ncat\necho filtered\n")
        program.chmod(0o755)

        confined.run(
            "a",
            f"git config filter.evil.clean {shlex.quote(str(program))}; echo a > a.txt; "
            "echo '* filter=evil' > .gitattributes",
        )
        checkout.note()

        assert not Path(place).exists()
        assert "filtered" in checkout.shows("a.txt", on=confined.branch)

    def test_it_cannot_forge_a_lock(self, confined: Site, tmp_path: Path) -> None:
        result = confined.run(
            "a", f"mkdir -p {shlex.quote(str(confined.root / merge_lock.LOCKS / 'x'))} && echo a > a.txt"
        )

        assert result.outcome is Outcome.FAILED


class TestFiles:
    def test_a_link_on_the_way_is_not_followed(self, tmp_path: Path, victim: Path) -> None:
        (tmp_path / "link").symlink_to(victim)

        for call in (
            untrusted_files.read,
            untrusted_files.make_folder,
            lambda path: untrusted_files.write_new(path, b"x"),
        ):
            with pytest.raises(OSError, match="Not a directory"):
                call(tmp_path / "link" / "precious")
        untrusted_files.unlink(tmp_path / "link" / "precious")
        untrusted_files.delete_tree(tmp_path / "link" / "logs")
        untrusted_files.delete_tree(tmp_path / "link")

        assert not (tmp_path / "link").is_symlink()

    def test_a_folder_that_is_very_deep_goes(self, tmp_path: Path) -> None:
        (tmp_path / "top").mkdir()
        here = os.open(tmp_path / "top", os.O_RDONLY)
        for _ in range(1_500):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)

        untrusted_files.delete_tree(tmp_path / "top")

        assert list(tmp_path.iterdir()) == []

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            untrusted_files.read(tmp_path / "pipe")
