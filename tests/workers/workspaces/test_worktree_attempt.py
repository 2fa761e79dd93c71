"""Test an attempt in a worktree: real git, real processes, and a checkout whose files stay unchanged."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.jobs import Shell
from coordination.domain.jobs.checkouts import task_branch
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType
from tests.support.repositories import Checkout, Site, agent, merged_meanwhile
from tests.support.speed import patience
from workers.runners.base import StopReason


class TestSuccess:
    def test_the_change_is_one_commit_of_the_agents_on_the_runs_branch_and_nothing_is_left(
        self, site: Site, checkout: Checkout
    ) -> None:
        base = checkout.git("rev-parse", "HEAD")

        result = site.run("fix", "echo done; echo new > new.txt; rm readme.txt", title="Fix   it")

        assert (result.outcome, result.output, result.error) == (Outcome.COMPLETED, "done", None)
        assert checkout.git("log", "--format=%an|%ae|%cn|%s|%P", "-1", site.branch) == (
            f"dave/vc|dave.vc@coordination.invalid|Coordination|Fix it|{base}"
        )
        assert checkout.git("ls-tree", "--name-only", site.branch) == "new.txt"
        body = checkout.git("log", "--format=%b", "-1", site.branch)
        assert f"Coord-Task: fix {site.ids['fix']}" in body
        assert f"Coord-Run: {site.run_id}" in body
        assert (checkout.branches(), checkout.worktrees(), site.files_left()) == ([site.branch], [], [])
        assert not (checkout.path / "new.txt").exists()

    def test_each_begins_where_the_branch_is_and_the_history_is_one_line(self, site: Site, checkout: Checkout) -> None:
        for number in range(3):
            assert site.run(f"t{number}", f"echo {number} >> log.txt").outcome is Outcome.COMPLETED

        assert checkout.shows("log.txt", on=site.branch) == "0\n1\n2"
        assert checkout.git("rev-list", "--count", "--merges", site.branch) == "0"

    def test_a_job_that_changes_nothing_completes_without_a_commit(self, site: Site, checkout: Checkout) -> None:
        result = site.run("look", "cat readme.txt")

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "hello")
        assert checkout.git("rev-parse", site.branch) == checkout.git("rev-parse", "main")
        assert (checkout.branches(), site.files_left()) == ([site.branch], [])

    def test_commits_that_a_job_makes_by_itself_are_its_own_and_come_as_one_merge(
        self, site: Site, checkout: Checkout
    ) -> None:
        script = "for n in 1 2; do echo $n > $n.txt; git add .; git commit -qm step-$n; done; echo 3 > 3.txt"

        assert site.run("steps", script, agent="eve/shop").outcome is Outcome.COMPLETED

        assert checkout.git("log", "--first-parent", "--format=%s", site.branch).splitlines() == ["Do steps", "Begin"]
        commits = checkout.git("log", "--no-merges", "--format=%an %cn %s", f"main..{site.branch}").splitlines()
        assert commits == [
            "eve/shop Coordination Do steps",
            "eve/shop eve/shop step-2",
            "eve/shop eve/shop step-1",
        ]
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["1.txt", "2.txt", "3.txt", "readme.txt"]

    def test_a_job_may_change_the_branch_or_lose_its_git_file(self, site: Site, checkout: Checkout) -> None:
        first = site.run("branch", "git checkout -qb mine; echo a > a.txt; git add .; git commit -qm a; echo b > b.txt")
        checkout.git("branch", "--quiet", "-D", "mine")
        second = site.run("lost", "rm .git; echo c > c.txt")

        assert (first.outcome, second.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["a.txt", "b.txt", "c.txt", "readme.txt"]

    def test_python_jobs_and_subfolders_work_there_too(self, site: Site, checkout: Checkout) -> None:
        (checkout.path / "part").mkdir()
        (checkout.path / "part" / "jobs_here.py").write_text(
            "from pathlib import Path\ndef make():\n    Path('made.txt').write_text('x')\n    return str(Path.cwd())\n"
        )
        checkout.commit("Part")

        result = site.run("py", {"python": "jobs_here:make"}, workdir=str(checkout.path / "part"))

        assert result.outcome is Outcome.COMPLETED, result
        assert result.output == str(site.root / site.run_id[-12:] / "py.1" / "part")
        assert "part/made.txt" in checkout.git("ls-tree", "-r", "--name-only", site.branch)

    def test_modules_come_from_the_worktree_not_from_the_checkout(self, site: Site, checkout: Checkout) -> None:
        (checkout.path / "jobs").mkdir()
        (checkout.path / "jobs" / "my_jobs.py").write_text("def which():\n    return __file__\n")
        checkout.commit("Jobs")

        result = site.run("py", {"python": "my_jobs:which"}, python_path=(str(checkout.path / "jobs"),))

        assert result.output == str(site.root / site.run_id[-12:] / "py.1" / "jobs" / "my_jobs.py")

    def test_the_branch_begins_at_the_base_that_is_said(self, site: Site, checkout: Checkout) -> None:
        checkout.git("branch", "old")
        checkout.commit("Later", later="x\n")

        site.run("a", "ls > seen.txt", checkout={"kind": "git-worktree", "base": "old"})
        site.run("b", "ls > seen.txt")

        assert checkout.shows("seen.txt", on=site.branch) == "readme.txt\nseen.txt"

    def test_what_others_commit_to_the_checkout_meanwhile_does_not_matter(self, site: Site, checkout: Checkout) -> None:
        site.run("a", "echo a > a.txt")
        checkout.commit("Meanwhile", readme="changed\n")

        site.run("b", "cat readme.txt")

        assert checkout.shows("readme.txt", on=site.branch) == "hello"


class TestTheOwner:
    def test_a_dirty_checkout_is_neither_seen_nor_touched(self, checkout: Checkout, site: Site) -> None:
        (checkout.path / "readme.txt").write_text("put away\n")
        checkout.git("stash", "push", "--quiet")
        (checkout.path / "readme.txt").write_text("my own\n")
        (checkout.path / "staged.txt").write_text("staged\n")
        checkout.git("add", "staged.txt")
        (checkout.path / "untracked.txt").write_text("mine\n")
        checkout.note()

        result = site.run("look", "ls; cat readme.txt; echo theirs > readme.txt")

        assert result.output == "readme.txt\nhello"
        assert checkout.is_untouched()
        assert (checkout.path / "readme.txt").read_text() == "my own\n"

    def test_hooks_and_odd_settings_change_nothing(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "odd")
        for name in ("pre-commit", "commit-msg", "post-checkout", "pre-merge-commit", "reference-transaction"):
            hook = checkout.path / ".git" / "hooks" / name
            hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hook-ran'\nexit 1\n")
            hook.chmod(0o755)
        for name, value in {
            "commit.gpgsign": "true",
            "gpg.program": "/bin/false",
            "merge.ff": "only",
            "user.useConfigOnly": "true",
            "core.autocrlf": "true",
            "core.safecrlf": "true",
            "core.fsmonitor": "/bin/false",
            "core.pager": "/bin/false",
            "status.showUntrackedFiles": "no",
            "status.branch": "true",
            "diff.noprefix": "true",
            "color.ui": "always",
            "extensions.worktreeConfig": "true",
            "merge.conflictStyle": "diff3",
            "rerere.enabled": "true",
            "i18n.commitEncoding": "latin1",
            "checkout.defaultRemote": "nowhere",
            "push.default": "nothing",
        }.items():
            checkout.git("config", name, value)
        site = Site(runners, checkout, tmp_path / "site")

        first = site.run("one", "echo 1 > one.txt", title="Grüße")
        second = site.run("two", "printf 'a\\nb\\r\\n' > two.txt", gates=["test -e one.txt"])

        assert (first.outcome, second.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED), (first, second)
        log = ("log", "--encoding=UTF-8", "--no-color", "--format=%s")
        assert checkout.git(*log, site.branch).splitlines() == ["Do two", "Grüße", "Begin"]
        assert not (tmp_path / "hook-ran").exists()

    def test_a_bare_repository_a_linked_worktree_and_a_submodule_will_do(
        self, runners, checkout: Checkout, tmp_path: Path
    ) -> None:
        inner = Checkout(tmp_path / "inner")
        checkout.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path), "inner")
        checkout.commit("With a submodule")
        checkout.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "linked"))
        checkout.git("clone", "--quiet", "--bare", str(checkout.path), str(tmp_path / "bare.git"))

        for name, folder in (("linked", tmp_path / "linked"), ("bare", tmp_path / "bare.git")):
            site = Site(runners, checkout, tmp_path / f"site of {name}")
            result = site.run("a", "echo a > a.txt; ls", workdir=str(folder))
            assert (result.outcome, result.output) == (Outcome.COMPLETED, "a.txt\ninner\nreadme.txt"), result
            assert site.files_left() == []
        assert checkout.git("ls-tree", "-r", "side^{tree}").count("160000") == 1

    def test_a_filter_for_large_files_is_asked_on_the_way_in_and_out(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "large")
        checkout.git("config", "filter.rot.clean", "tr a-z n-za-m")
        checkout.git("config", "filter.rot.smudge", "tr a-z n-za-m")
        checkout.git("config", "filter.rot.required", "true")
        (checkout.path / ".gitattributes").write_text("*.bin filter=rot\n")
        (checkout.path / "a.bin").write_text("hello\n")
        checkout.commit("Large")
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", "cat a.bin; echo more > b.bin")

        assert result.output == "hello"
        assert checkout.git("cat-file", "blob", f"{site.branch}:b.bin") == "zber"


class TestWhatAJobTakesAway:
    @pytest.mark.parametrize("work", ["shell", "agent"])
    def test_its_own_worktree(self, runners, checkout: Checkout, tmp_path: Path, work: str) -> None:
        site = Site(runners, checkout, tmp_path / "site", keep=timedelta(days=1))
        script = 'rm -rf "$PWD"; echo done'

        result = site.run("a", agent(script) if work == "agent" else script)

        assert (result.outcome, result.retryable, result.job_started) == (Outcome.FAILED, True, True)
        assert str(site.root) in (result.error or "")
        assert "is gone: a job must leave its folder where it is" in (result.error or "")
        assert "kept until" not in (result.log or "")
        assert (site.files_left(), checkout.worktrees(), checkout.branches()) == ([], [], [site.branch])

    def test_the_repository(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "shop")
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", f"rm -rf '{checkout.path}'; echo more > more.txt")

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert f"its repository {checkout.path}/.git is gone" in (result.error or "")
        assert not checkout.path.exists()
        again = site.run("a", "true")
        assert (again.outcome, again.retryable) == (Outcome.FAILED, False)

    def test_the_record_of_its_worktree(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "shop")
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", f"rm -rf '{checkout.path}/.git/worktrees'; echo more > more.txt")

        assert result.outcome is Outcome.FAILED


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"workdir": None}, "the project has no folder"),
            ({"workdir": "/nowhere/at/all"}, "does not exist on this machine"),
            ({"checkout": {"kind": "git-worktree", "base": "ghost"}}, "no branch, tag or commit 'ghost'"),
        ],
    )
    def test_what_cannot_work_is_one_clear_sentence_and_is_not_repeated(
        self, site: Site, checkout: Checkout, change: dict[str, object], says: str
    ) -> None:
        result = site.run("a", "touch began", **change)

        assert (result.outcome, result.retryable, result.job_started) == (Outcome.FAILED, False, False)
        assert says in (result.error or "")
        assert checkout.branches() == []

    def test_a_folder_without_a_repository_is_refused(self, site: Site, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.mkdir()

        result = site.run("a", "true", workdir=str(plain))

        assert not result.retryable
        assert "is in none that can be used" in (result.error or "")
        assert "git init" in (result.error or "")

    def test_a_repository_without_a_commit_is_refused_with_the_way_out(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "empty", commits=False)
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", "true")

        assert not result.retryable
        assert "has no commit yet" in (result.error or "")
        assert "git commit --allow-empty" in (result.error or "")
        checkout.git("commit", "--quiet", "--allow-empty", "-m", "Begin")
        assert site.run("a", "touch a.txt").outcome is Outcome.COMPLETED

    def test_worktrees_are_never_made_inside_the_checkout(self, site: Site, checkout: Checkout) -> None:
        site.worktrees.root = checkout.path / ".coord"

        result = site.run("a", "true")

        assert "Set COORD_WORKTREES to a folder outside" in (result.error or "")
        assert not (checkout.path / ".coord").exists()

    def test_a_branch_that_is_in_the_way_is_named(self, runners, tmp_path: Path) -> None:
        checkout = Checkout(tmp_path / "taken")
        checkout.git("branch", "coord")
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", "true")

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "has a branch coord" in (result.error or "")
        assert "git branch -m coord NAME" in (result.error or "")

    def test_a_git_that_is_too_old_says_which_one_is_needed(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "git").write_text("#!/bin/sh\necho git version 2.30.2\n")
        (programs / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        old = site.run("a", "true")
        monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
        none = site.run("a", "true")

        assert "need git 2.38 or newer; this machine has git version 2.30.2" in (old.error or "")
        assert "git is not installed" in (none.error or "")


class TestGates:
    def test_they_run_in_order_where_the_job_has_worked_and_their_output_is_kept(
        self, site: Site, checkout: Checkout
    ) -> None:
        gates = ["echo first; cat new.txt", {"run": "git log -1 --format=%s", "name": "subject"}]

        result = site.run("a", "echo job >&2; echo made > new.txt", gates=gates)

        assert result.outcome is Outcome.COMPLETED
        lines = (result.log or "").splitlines()
        assert lines[0] == "job"
        assert lines[1].startswith("[gate echo first; cat new.txt] passed (")
        assert lines[2:4] == ["first", "made"]
        assert lines[4].startswith("[gate subject] passed (")
        assert lines[5] == "Do a"
        passed = [
            payload["gate"] for type_, payload in site.events if type_ is EventType.PROGRESS and "gate" in payload
        ]
        assert passed == ["echo first; cat new.txt", "subject"]

    def test_one_that_fails_fails_the_attempt_and_tells_the_next_one(self, site: Site, checkout: Checkout) -> None:
        gates = ["true", "echo what is wrong; echo and why >&2; exit 3", "touch never"]

        result = site.run("a", "echo out; echo a > a.txt", gates=gates)

        assert (result.outcome, result.retryable, result.output) == (Outcome.FAILED, True, "out")
        assert result.error == "gate 'echo what is wrong; echo and why >&2; exit 3' failed: exit status 3"
        feedback = result.carry_over["feedback"]
        assert "exit status 3" in feedback
        assert feedback.endswith("What it printed:\nwhat is wrong\nand why")
        assert "never" not in (result.log or "")
        assert checkout.git("rev-parse", site.branch) == checkout.git("rev-parse", "main")

    def test_feedback_is_bounded(self, site: Site) -> None:
        result = site.run("a", "true", gates=["seq 1 1000000; exit 1"])

        assert len(result.carry_over["feedback"]) < 9_000
        assert result.carry_over["feedback"].endswith("999999\n1000000")
        assert "The end of what it printed" in result.carry_over["feedback"]
        assert len(result.log or "") < 140_000

    def test_one_has_a_limit_of_its_own(self, site: Site) -> None:
        result = site.run("a", "true", gates=[{"run": "echo begun; sleep 600", "timeout": 0.5, "name": "slow"}])

        assert result.error == "gate 'slow' failed: timed out after 0.5 s"
        assert "begun" in result.carry_over["feedback"]

    def test_what_one_leaves_running_is_ended_and_what_it_writes_is_not_committed(
        self, site: Site, checkout: Checkout
    ) -> None:
        result = site.run("a", "echo a > a.txt", gates=["setsid sleep 600 & echo dirt > dirt.txt; echo x > a.txt"])

        assert result.outcome is Outcome.COMPLETED
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["a.txt", "readme.txt"]
        assert checkout.shows("a.txt", on=site.branch) == "a"

    def test_what_one_spends_is_in_the_bill(self, site: Site) -> None:
        spend = """echo '{"model": "judge", "cost_usd": 0.10}' >> "$COORD_COSTS" """

        result = site.run("a", spend.replace("judge", "worker"), gates=[spend])

        assert [usage.model for usage in result.usage] == ["worker", "judge"]

    def test_they_are_asked_again_about_what_the_merge_made(self, site: Site, checkout: Checkout) -> None:
        # Each value is valid alone; together they exceed the limit.
        gates = ["test $(ls *.part | wc -l) -lt 2 || { ls *.part; exit 1; }"]
        other = merged_meanwhile(site, "b", "echo b > b.part", gates=gates)

        result = site.run("c", f"echo c > c.part; {other}", gates=gates)

        assert result.outcome is Outcome.FAILED
        assert "b.part\nc.part" in result.carry_over["feedback"]
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["b.part", "readme.txt"]

    def test_what_passes_them_together_is_one_merge(self, site: Site, checkout: Checkout) -> None:
        other = merged_meanwhile(site, "b", "echo b > b.part")

        result = site.run("c", f"echo c > c.part; {other}", gates=["ls *.part"])

        assert result.outcome is Outcome.COMPLETED
        assert [line for line in (result.log or "").splitlines() if ".part" in line and "[" not in line] == [
            "c.part",  # alone, then together
            "b.part",
            "c.part",
        ]
        assert checkout.git("log", "--first-parent", "--format=%s", site.branch).splitlines() == [
            "Do c",
            "Do b",
            "Begin",
        ]
        assert (checkout.branches(), checkout.worktrees(), site.files_left()) == ([site.branch], [], [])

    def test_a_plain_folder_has_gates_too(self, site: Site, tmp_path: Path) -> None:
        place = tmp_path / "plain"
        place.mkdir()

        good = site.run("a", "echo a > a.txt", checkout=None, gates=["cat a.txt"], workdir=str(place))
        bad = site.run("b", "true", checkout=None, gates=["exit 1"], workdir=None)
        failed = site.run("c", "exit 4", checkout=None, gates=["touch never"], workdir=str(place))

        assert (good.outcome, (good.log or "").splitlines()[-1]) == (Outcome.COMPLETED, "a")
        assert (bad.outcome, bad.error) == (Outcome.FAILED, "gate 'exit 1' failed: exit status 1")
        assert (failed.error, (place / "never").exists()) == ("exit status 4", False)


class TestStopping:
    @pytest.mark.parametrize(
        ("reason", "outcome"),
        [
            (StopReason.CANCELED, Outcome.CANCELED),
            (StopReason.SHUTDOWN, Outcome.HANDED_BACK),
            (StopReason.LEASE_LOST, Outcome.LOST),
        ],
    )
    def test_a_job_that_is_stopped_leaves_nothing(
        self, site: Site, checkout: Checkout, reason: StopReason, outcome: Outcome
    ) -> None:
        claim = site.claim("a", "echo a > a.txt; echo ready; sleep 600")
        started = threading.Event()
        results: list[AttemptEnd] = []
        with site.control(on_start=lambda _: started.set()) as control:
            thread = threading.Thread(target=lambda: results.append(site.attempt(claim, control)))
            thread.start()
            assert started.wait(patience(30))
            control.stop(reason)
            thread.join(patience(60))

        assert [result.outcome for result in results] == [outcome]
        assert checkout.worktrees() == []
        assert site.files_left() == []
        # A later attempt may use the task's branch by now.
        left = [task_branch(site.run_id, "a")] if outcome is Outcome.LOST else []
        assert sorted(checkout.branches()) == sorted([site.branch, *left])

    def test_one_that_is_stopped_in_a_gate_is_not_done_again(self, site: Site, checkout: Checkout) -> None:
        claim = site.claim("a", agent("echo said; echo a > a.txt"), gates=["test -e ok || { touch ok; sleep 600; }"])
        control = site.control()
        results: list[AttemptEnd] = []
        thread = threading.Thread(target=lambda: results.append(site.attempt(claim, control)))
        thread.start()
        place = site.root / site.run_id[-12:] / "a.1" / "ok"
        while not place.exists():
            thread.join(0.01)
            assert thread.is_alive()
        control.stop(StopReason.SHUTDOWN)
        thread.join(patience(60))
        (first,) = results

        second = site.again("a", agent("touch ran-again"), first, gates=["cat a.txt"])

        assert first.outcome is Outcome.HANDED_BACK
        assert (second.outcome, second.output) == (Outcome.COMPLETED, "said")
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["a.txt", "readme.txt"]
        assert (checkout.branches(), site.files_left()) == ([site.branch], [])
        control.close()

    def test_a_bug_of_a_runner_leaves_no_worktree(
        self, site: Site, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object) -> AttemptEnd:
            raise LookupError("a bug")

        monkeypatch.setattr(site.runners.by_kind[Shell], "run", fails)

        result = site.run("a", "true")

        assert (result.outcome, result.error) == (Outcome.FAILED, "the runner failed: LookupError: a bug")
        assert (checkout.worktrees(), site.files_left()) == ([], [])

    def test_one_whose_lease_may_be_over_merges_nothing(self, site: Site, checkout: Checkout) -> None:
        claim = site.claim("a", "echo a > a.txt")

        with site.control() as control:
            result = site.attempt(claim, control, ours=False)

        assert result.outcome is Outcome.LOST
        assert checkout.git("rev-parse", site.branch) == checkout.git("rev-parse", "main")


class TestKeeping:
    def test_the_worktree_of_a_failed_attempt_is_kept_and_says_where(
        self, runners, checkout: Checkout, tmp_path: Path
    ) -> None:
        site = Site(runners, checkout, tmp_path / "kept", keep=timedelta(days=3))

        result = site.run("a", "echo half > a.txt; exit 3")

        place = site.root / site.run_id[-12:] / "a.1"
        assert (place / "a.txt").read_text() == "half\n"
        assert str(place) in (result.log or "")
        assert [payload["kept"] for _, payload in site.events if "kept" in payload] == [str(place)]
        assert checkout.worktrees() == [str(place)]
        assert checkout.branches() == [site.branch]

    def test_it_goes_when_a_later_attempt_completes(self, runners, checkout: Checkout, tmp_path: Path) -> None:
        site = Site(runners, checkout, tmp_path / "kept", keep=timedelta(days=3))
        site.run("a", "exit 3")
        site.run("a.1", "exit 3")

        again = site.run("a", "echo whole > a.txt", attempt=2)

        assert again.outcome is Outcome.COMPLETED
        assert [Path(path).name for path in checkout.worktrees()] == ["a.1.1"]
        assert checkout.branches() == [site.branch]

    def test_the_plan_says_for_how_long(self, runners, checkout: Checkout, tmp_path: Path) -> None:
        site = Site(runners, checkout, tmp_path / "kept", keep=timedelta(days=3))

        site.run("a", "exit 3", checkout={"kind": "git-worktree", "keep_failed": 0})

        assert site.files_left() == []

    def test_folders_that_nobody_may_write_go_too(self, site: Site) -> None:
        assert (
            site.run("a", "mkdir -p x/y; touch x/y/z; chmod -R a-w x; echo x > .gitignore").outcome is Outcome.COMPLETED
        )

        assert site.files_left() == []
