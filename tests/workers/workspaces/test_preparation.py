"""Test how a worktree is prepared for its job: copies, one setup for many tasks, and nothing of it committed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.repositories import Checkout, Site, agent, merged_meanwhile
from tests.support.speed import patience
from workers.runners.base import StopReason
from workers.workspaces import setup_cache

SETUP = (
    'echo ran >> "{log}"; mkdir -p deps/lib; echo 1 > deps/lib/a; echo "#!$PWD/x" > deps/tool; '
    'ln -s "$PWD/deps/lib" deps/l'
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "setups.log"


@pytest.fixture
def prepared(site: Site, log: Path) -> Callable[..., AttemptEnd]:
    """Run a task in a worktree that the setup command has prepared."""

    def run(key: str, job: Any, *, setup: str = SETUP, gates: Any = None, attempt: int = 1, **keys: Any) -> AttemptEnd:
        checkout = {"kind": "git-worktree", "setup": setup.format(log=log), **keys}
        return site.run(key, job, checkout=checkout, gates=gates, attempt=attempt)

    return run


@pytest.fixture
def locked(checkout: Checkout) -> Checkout:
    (checkout.path / "uv.lock").write_text("1")
    (checkout.path / ".gitignore").write_text("deps/\n")
    checkout.commit("Lock")
    return checkout


def completed(result: AttemptEnd) -> str:
    assert result.outcome is Outcome.COMPLETED, (result.error, result.log)
    return str(result.output)


class TestSetup:
    @pytest.mark.parametrize("keys", [{"share": ["deps"]}, {}], ids=["linked", "copied"])
    def test_runs_once_for_tasks_with_the_same_lock_file_and_each_finds_what_it_made_in_its_own_place(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path, site: Site, keys: dict
    ) -> None:
        look = 'cat deps/lib/a deps/l/a; test "$(cat deps/tool) $(readlink deps/l)" = "#!$PWD/x $PWD/deps/lib"'

        outputs = [completed(prepared(f"t{number}", look, **keys)) for number in range(3)]

        assert outputs == ["1\n1"] * 3
        assert log.read_text() == "ran\n"
        assert locked.git("ls-tree", "--name-only", site.branch).split() == [".gitignore", "readme.txt", "uv.lock"]

    def test_runs_again_when_the_lock_file_or_the_command_changes(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path
    ) -> None:
        completed(prepared("first", "echo 2 > uv.lock"))
        completed(prepared("second", "true"))
        completed(prepared("third", "true"))
        completed(prepared("fourth", "true", setup=SETUP + "; true"))

        assert log.read_text() == "ran\n" * 3

    @pytest.mark.parametrize(
        ("files", "setups"),
        [({"package.json": "{}"}, 2), ({"Cargo.lock": "", "package.json": "{}"}, 1), ({}, 1)],
        ids=["manifest", "lock file before manifest", "nothing known"],
    )
    def test_depends_on_a_manifest_where_nothing_is_locked_and_else_on_the_command_alone(
        self, prepared: Callable[..., AttemptEnd], checkout: Checkout, log: Path, files: dict, setups: int
    ) -> None:
        for name, text in files.items():
            (checkout.path / name).write_text(text)
        checkout.commit("More", more="1")

        completed(prepared("first", "echo 6 > other.txt; [ ! -e package.json ] || echo 5 > package.json"))
        completed(prepared("second", "true"))

        assert log.read_text() == "ran\n" * setups

    def test_named_lock_files_are_the_ones_that_count_and_have_to_be_there(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path
    ) -> None:
        completed(prepared("first", "echo 2 > uv.lock", lock=["readme.txt"]))
        completed(prepared("second", "echo new > readme.txt", lock=["readme.txt"]))
        completed(prepared("third", "true", lock=["readme.txt"]))
        missing = prepared("fourth", "true", lock=["gone.lock"])

        assert log.read_text() == "ran\n" * 2
        assert (missing.outcome, missing.retryable) == (Outcome.FAILED, False)
        assert "checkout.lock names 'gone.lock'" in (missing.error or "")

    def test_a_job_that_spoils_its_copy_or_removes_a_shared_folder_spoils_it_for_nobody_else(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout
    ) -> None:
        for keys in ({}, {"share": ["deps"]}):
            completed(prepared(f"first{len(keys)}", "true", **keys))
            completed(prepared(f"spoil{len(keys)}", "echo 2 > deps/tool; rm -rf deps", **keys))
            assert completed(prepared(f"look{len(keys)}", "cat deps/lib/a", **keys)) == "1"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_nothing_is_replaced_in_a_shared_folder(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout
    ) -> None:
        completed(prepared("first", "true", share=["deps"]))

        assert prepared("second", "echo 2 > deps/lib/new", share=["deps"]).outcome is Outcome.FAILED

    def test_folders_of_the_store_that_are_shared_are_read_only(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout, site: Site
    ) -> None:
        completed(prepared("first", "true", share=["deps"]))

        (stored,) = (site.root / setup_cache.FOLDER).glob("*/files/deps")
        assert [place.stat().st_mode & 0o222 for place in (stored, stored / "lib")] == [0, 0]

    def test_two_at_once_set_up_once(self, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path) -> None:
        outputs: list[AttemptEnd] = []
        slow = "sleep 0.3; " + SETUP
        threads = [
            threading.Thread(target=lambda key=key: outputs.append(prepared(key, "cat deps/lib/a", setup=slow)))
            for key in ("a", "b", "c")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert [completed(result) for result in outputs] == ["1"] * 3
        assert log.read_text() == "ran\n"

    def test_that_fails_fails_the_attempt_with_the_end_of_its_output_and_is_run_again_by_the_next(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path, tmp_path: Path
    ) -> None:
        setup = f'[ -e "{tmp_path}/net" ] || {{{{ seq 50; echo no network >&2; exit 3; }}}}; {SETUP}'

        failed = prepared("fix", "true", setup=setup)
        (tmp_path / "net").touch()
        then = prepared("fix", "cat deps/lib/a", setup=setup, attempt=2)

        assert (failed.outcome, failed.retryable) == (Outcome.FAILED, True)
        assert (failed.error or "").startswith("setup '[ -e ")
        assert (failed.error or "").endswith("failed: exit status 3")
        assert "[setup " in (failed.log or "")
        assert (failed.log or "").endswith("\n49\n50\nno network")
        assert "\n30\n" not in (failed.log or "")
        assert completed(then) == "1"

    def test_that_is_interrupted_leaves_nothing_half(
        self, site: Site, prepared: Callable[..., AttemptEnd], locked: Checkout, log: Path, tmp_path: Path
    ) -> None:
        mark = tmp_path / "begun"
        checkout = {"kind": "git-worktree", "setup": f"mkdir deps; touch {mark}; sleep 60"}
        claim = site.claim("fix", "true", checkout=checkout)
        outputs: list[AttemptEnd] = []
        with site.control() as control:
            thread = threading.Thread(target=lambda: outputs.append(site.attempt(claim, control)))
            thread.start()
            _until(mark.exists)
            control.stop(StopReason.SHUTDOWN)
            thread.join()

        assert outputs[0].outcome is Outcome.HANDED_BACK
        assert [path.suffix for path in (site.root / setup_cache.FOLDER).iterdir()] == [".lock"]
        assert completed(prepared("fix", "cat deps/lib/a", attempt=2)) == "1"

    def test_that_waits_for_another_ends_when_it_is_told_to(
        self, site: Site, locked: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        to_fill, waits = setup_cache._open_empty, threading.Event()

        def tried(path: Path, fd: int) -> setup_cache.SetupCache | None:
            outcome = to_fill(path, fd)
            if outcome is None:
                waits.set()
            return outcome

        monkeypatch.setattr(setup_cache, "_open_empty", tried)
        mark = tmp_path / "begun"
        checkout = {"kind": "git-worktree", "setup": f"touch {mark}; sleep 60"}
        outputs: list[AttemptEnd] = []
        with site.control() as first, site.control() as second:
            for key, control in (("a", first), ("b", second)):
                claim = site.claim(key, "true", checkout=checkout)
                threading.Thread(target=lambda c=claim, o=control: outputs.append(site.attempt(c, o))).start()
                _until(mark.exists)
            assert waits.wait(patience(20))
            second.stop(StopReason.CANCELED)
            _until(lambda: len(outputs) == 1)
            first.stop(StopReason.CANCELED)
            _until(lambda: len(outputs) == 2)

        assert [result.outcome for result in outputs] == [Outcome.CANCELED] * 2
        assert "waited for the setup of another task" in (outputs[0].error or "")

    def test_happens_in_the_tasks_own_folder(
        self, site: Site, checkout: Checkout, prepared: Callable[..., AttemptEnd], log: Path
    ) -> None:
        part = checkout.path / "part"
        part.mkdir()
        (part / "uv.lock").write_text("1")
        (part / "code.txt").write_text("1")
        checkout.commit("Part")
        (part / ".env").write_text("A=1")
        checkout.note()
        keys = {"kind": "git-worktree", "setup": SETUP.format(log=log), "share": ["deps"], "copy": [".env"]}

        output = [site.run(key, "cat deps/lib/a .env", checkout=keys, workdir=str(part)) for key in ("a", "b")]

        assert [completed(result) for result in output] == ["1\nA=1"] * 2
        assert log.read_text() == "ran\n"

    def test_shares_only_what_it_makes(self, prepared: Callable[..., AttemptEnd], locked: Checkout) -> None:
        results = [prepared("a", "true", share=["node_modules"]), prepared("b", "true", share=["readme.txt"])]

        assert [result.outcome for result in results] == [Outcome.FAILED] * 2
        assert "which the setup command did not create" in (results[0].error or "")

    def test_a_part_of_what_it_makes_is_linked_and_the_rest_copied(
        self, prepared: Callable[..., AttemptEnd], locked: Checkout
    ) -> None:
        completed(prepared("first", "true", share=["deps/lib"]))

        output = completed(
            prepared("second", "readlink deps/lib/a; readlink deps/tool || echo own", share=["deps/lib"])
        )

        assert output.startswith("/")
        assert output.endswith("/files/deps/lib/a\nown")


class TestNothingIsCommitted:
    @pytest.fixture
    def unignored(self, checkout: Checkout) -> Checkout:
        (checkout.path / "uv.lock").write_text("1")
        checkout.commit("Lock")
        (checkout.path / ".env").write_text("SECRET=1")
        (checkout.path / "odd [name]*").write_text("x")
        checkout.note()
        return checkout

    @pytest.mark.parametrize("share", [["deps"], []], ids=["linked", "copied"])
    def test_of_what_was_brought_in_by_the_system_or_by_the_job_itself(
        self, prepared: Callable[..., AttemptEnd], unignored: Checkout, site: Site, share: list
    ) -> None:
        commits = "echo 1 > {0}.txt; git add -A; git commit -qm mine; echo 2 > more-{0}.txt; git status --porcelain"

        for key in ("a", "b"):
            output = prepared(key, commits.format(key), share=share, copy=[".env", "odd [name]*"])
            assert completed(output) == f"?? more-{key}.txt"

        names = unignored.git("ls-tree", "-r", "--name-only", site.branch).split()
        assert names == ["a.txt", "b.txt", "more-a.txt", "more-b.txt", "readme.txt", "uv.lock"]

    def test_what_the_persons_own_excludes_name_stays_excluded(
        self, prepared: Callable[..., AttemptEnd], unignored: Checkout, site: Site, tmp_path: Path, monkeypatch: Any
    ) -> None:
        (tmp_path / "config" / "git").mkdir(parents=True)
        (tmp_path / "config" / "git" / "ignore").write_text("*.swp\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

        completed(prepared("a", "echo > x.swp; echo > a.txt", copy=[".env"]))

        assert unignored.git("ls-tree", "-r", "--name-only", site.branch).split() == ["a.txt", "readme.txt", "uv.lock"]

    def test_a_file_of_excludes_that_the_repository_names_is_read_in_the_checkout_only(
        self, prepared: Callable[..., AttemptEnd], unignored: Checkout, tmp_path: Path, site: Site
    ) -> None:
        (tmp_path / "secret").write_text("hunter22\n")
        (unignored.path / ".excluded").write_text("*.log\n")
        unignored.commit("Exclude")
        look = 'cat "$(git rev-parse --git-dir)/coordination-excludes"; touch x.log'
        text = {}
        for key, path in (("out", tmp_path / "secret"), ("in", unignored.path / ".excluded")):
            unignored.git("config", "core.excludesFile", str(path))
            unignored.note()
            text[key] = completed(prepared(key, look))

        assert "hunter22" not in text["out"]
        assert "*.log" in text["in"]

    def test_a_link_in_the_place_of_our_excludes_is_not_followed(
        self, prepared: Callable[..., AttemptEnd], unignored: Checkout, tmp_path: Path
    ) -> None:
        (tmp_path / "victim").write_text("all of it")
        link = f'ln -s "{tmp_path}/victim" "$(git rev-parse --git-dir)/coordination-excludes"'

        output = completed(prepared("a", "git status --short", setup=f"{SETUP}; {link}"))

        assert (output, (tmp_path / "victim").read_text()) == ("", "all of it")

    def test_variables_of_the_plan_for_git_hold_beside_ours(self, site: Site, unignored: Checkout, log: Path) -> None:
        env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "Eve"}
        job = {"shell": "git config user.name; git status --porcelain", "env": env}

        output = site.run("a", job, checkout={"kind": "git-worktree", "copy": [".env"]})

        assert completed(output) == "Eve"


class TestCopies:
    def test_files_and_folders_of_the_persons_checkout_are_there_for_job_and_gates(
        self, site: Site, checkout: Checkout
    ) -> None:
        (checkout.path / ".gitignore").write_text(".env\nlocal/\n")
        checkout.commit("Ignore")
        (checkout.path / ".env").write_text("A=1")
        (checkout.path / ".env").chmod(0o600)
        (checkout.path / "local" / "deep").mkdir(parents=True)
        (checkout.path / "local" / "deep" / "x").write_text("2")
        keys = {"kind": "git-worktree", "copy": [".env", "local"]}

        output = site.run(
            "a", "cat .env local/deep/x; stat -c %a .env; echo 3 > .env", checkout=keys, gates=["cat .env"]
        )

        assert completed(output) == "A=12600"
        assert (checkout.path / ".env").read_text() == "A=1"

    def test_what_is_missing_committed_or_behind_a_link_is_refused_in_one_sentence(
        self, site: Site, checkout: Checkout, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "key").write_text("k")
        (checkout.path / "out").symlink_to(tmp_path / "secret")
        (checkout.path / ".git" / "info" / "exclude").write_text("out\n")
        sentences = {
            "gone": "there is no ",
            "readme.txt": "which is committed, so the worktree has it already",
            "out": "is a link",
            "out/key": "is a link",
        }

        for name, sentence in sentences.items():
            result = site.run(name, "true", checkout={"kind": "git-worktree", "copy": [name]})
            assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
            assert f"checkout.copy names {name!r}" in (result.error or "")
            assert sentence in (result.error or "")


class TestTheStore:
    def test_is_swept_when_nobody_has_used_it_for_long_and_never_while_somebody_does(
        self, site: Site, prepared: Callable[..., AttemptEnd], locked: Checkout
    ) -> None:
        completed(prepared("first", "true", share=["deps"]))
        later, day = time.time() + 86_400 * 2, timedelta(days=1)

        swept: list[int] = []
        mark = site.folder / "working"
        claim = site.claim("b", f"touch '{mark}'; sleep 60", checkout=_like_first(site, prepared))
        with site.control() as control:
            thread = threading.Thread(target=lambda: site.attempt(claim, control))
            thread.start()
            _until(mark.exists)
            swept.append(setup_cache.sweep(site.root, keep=day, now=later))
            control.stop(StopReason.CANCELED)
            thread.join()
        swept.append(setup_cache.sweep(site.root, keep=timedelta(days=3), now=later))
        swept.append(setup_cache.sweep(site.root, keep=day, now=later))

        assert swept == [0, 0, 1]
        assert site.files_left() == []
        assert completed(prepared("last", "cat deps/lib/a", share=["deps"])) == "1"

    def test_stays_for_as_long_as_a_kept_worktree_links_to_it(
        self, site: Site, prepared: Callable[..., AttemptEnd], locked: Checkout
    ) -> None:
        completed(prepared("first", "true", share=["deps"]))
        failed = prepared("second", "false", share=["deps"], keep_failed="3d")
        assert failed.outcome is Outcome.FAILED

        assert setup_cache.sweep(site.root, keep=timedelta(days=1), now=time.time() + 86_400 * 2) == 0
        assert setup_cache.sweep(site.root, keep=timedelta(days=1), now=time.time() + 86_400 * 5) == 1


class TestMerges:
    def test_a_task_that_merges_is_prepared_as_the_one_that_it_merges_for(
        self, site: Site, locked: Checkout, log: Path
    ) -> None:
        keys = {"kind": "git-worktree", "setup": SETUP.format(log=log)}
        meanwhile = merged_meanwhile(site, "other", "echo theirs > readme.txt")

        left = site.run("fix", agent(f"echo ours > readme.txt; {meanwhile}"), checkout=keys)

        assert left.outcome is Outcome.DEFERRED
        task = left.discovered[0].task
        assert (task.get("checkout") or task["checkout"])["setup"] == keys["setup"]


def _like_first(site: Site, prepared: Any) -> dict[str, Any]:
    log = site.folder.parent / "setups.log"
    return {"kind": "git-worktree", "setup": SETUP.format(log=log), "share": ["deps"]}


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patience(20)
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
