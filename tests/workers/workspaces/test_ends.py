"""Test that a job's changes in its worktree reach the run's branch, or the attempt fails and keeps the worktree."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.repositories import Checkout, Site, agent

COMMIT = "git add -A; git commit -qm"
FIRST = f"echo first > b.txt; {COMMIT} first;"
WORK = f"echo precious > b.txt; {COMMIT} work"


@pytest.fixture
def kept(runners, checkout: Checkout, tmp_path: Path) -> Site:
    """Provide a site that keeps the worktrees of failed attempts."""
    checkout.commit("Second", second="2\n")
    return Site(runners, checkout, tmp_path / "kept", keep=timedelta(days=1))


def folder_of(site: Site, name: str = "a.1") -> Path:
    return site.root / site.run_id[-12:] / name


def files_on(site: Site) -> set[str]:
    return set(site.checkout.git("ls-tree", "-r", "--name-only", site.branch).split("\n"))


def gitlinks_on(site: Site) -> int:
    return site.checkout.git("ls-tree", "-r", site.branch).count("160000 ")


def check_kept(site: Site, result: AttemptEnd, *says: str) -> None:
    """Check that the attempt failed with a message, its worktree exists, and the run's branch is unchanged."""
    assert result.outcome is Outcome.FAILED, result
    for text in says:
        assert text in (result.error or ""), result.error
    assert "\n" not in (result.error or "")
    assert folder_of(site).exists()
    assert site.checkout.git("rev-parse", site.branch) == site.checkout.git("rev-parse", "main")


class TestHead:
    @pytest.mark.parametrize(
        ("script", "files"),
        [
            pytest.param(f"{WORK}; git checkout -q HEAD~1", "b.txt", id="an older commit"),
            pytest.param(
                f"{WORK}; git checkout -q HEAD~1; echo c > c.txt", "b.txt c.txt", id="changed on an older one"
            ),
            pytest.param(f"{WORK}; git checkout -q HEAD~2", "b.txt", id="before the beginning"),
            pytest.param(f"git checkout -qb mine; {WORK}; git checkout -q -", "b.txt", id="another branch"),
            pytest.param(
                f"git checkout -qb mine; {WORK}; git checkout -q -; echo c > c.txt; {COMMIT} c",
                "b.txt c.txt",
                id="both",
            ),
            pytest.param(f"git checkout -q --detach; {WORK}; git checkout -q -", "b.txt", id="on no branch"),
            pytest.param(f"{WORK}; git tag keep; git reset -q --hard HEAD~1", "b.txt", id="a tag only"),
            pytest.param(
                f"{WORK}; git tag -am x keep; git tag blob HEAD:b.txt; git reset -q --hard HEAD~1",
                "b.txt",
                id="a tag with a message, and one of a file",
            ),
            pytest.param(f"{WORK}; git branch mine; git reset -q --hard HEAD~1", "b.txt", id="moved to a branch"),
            pytest.param(
                f"{WORK}; git bisect start -q; git bisect bad; git bisect good HEAD~2", "b.txt", id="a bisect"
            ),
            pytest.param(f"git checkout -q --orphan new; {WORK}", "b.txt readme.txt", id="an orphan branch"),
            pytest.param("git checkout -q --orphan new; echo b > b.txt", "b.txt readme.txt", id="an unborn branch"),
            pytest.param(
                f"git worktree add -q ../x -b side; cd ../x; {WORK}; cd -; git worktree remove ../x",
                "b.txt",
                id="a worktree beside it",
            ),
        ],
    )
    def test_work_that_head_does_not_hold_is_merged(
        self, kept: Site, checkout: Checkout, script: str, files: str
    ) -> None:
        result = kept.run("a", script, gates=["cat b.txt"])

        assert result.outcome is Outcome.COMPLETED, result
        assert set(files.split()) <= files_on(kept)
        assert {"readme.txt", "second.txt"} <= files_on(kept)
        assert checkout.worktrees() == []

    @pytest.mark.parametrize("gate", ["true", "false"])
    @pytest.mark.parametrize("move", ["git checkout -q $RUN; WORK", "WORK; git push -q . HEAD:$RUN"])
    def test_a_job_that_moves_the_runs_branch_itself_passes_the_gates_first(
        self, kept: Site, checkout: Checkout, move: str, gate: str
    ) -> None:
        result = kept.run("a", move.replace("$RUN", kept.branch).replace("WORK", WORK), gates=[gate])

        assert result.outcome is (Outcome.COMPLETED if gate == "true" else Outcome.FAILED), result
        assert ("b.txt" in files_on(kept)) == (gate == "true")

    def test_a_worktree_that_is_left_beside_it_is_merged_and_goes(self, kept: Site, checkout: Checkout) -> None:
        result = kept.run("a", f"git worktree add -q --detach ../x; cd ../x; {WORK}")

        assert result.outcome is Outcome.COMPLETED, result
        assert "b.txt" in files_on(kept)
        assert (checkout.worktrees(), kept.files_left()) == ([], [])

    def test_a_branch_that_another_job_of_the_agent_may_have_made_is_named_and_not_taken(self, kept: Site) -> None:
        begin, ready, go = (kept.folder / name for name in ("begin", "ready", "go"))
        wait = "while ! test -e '{}'; do sleep 0.02; done;"
        theirs = f"{wait.format(begin)} git checkout -qb theirs; {WORK}; touch '{ready}'; {wait.format(go)} exit 1"
        thread = threading.Thread(target=lambda: kept.run("other", theirs))
        thread.start()

        result = kept.run("a", f"touch '{begin}'; {wait.format(ready)} echo a > a.txt")
        go.touch()
        thread.join()

        assert result.outcome is Outcome.COMPLETED
        assert "did not take" in (result.log or "")
        assert "refs/heads/theirs" in (result.log or "")
        assert "b.txt" not in files_on(kept)

    def test_one_with_changes_that_are_not_committed_fails(self, kept: Site) -> None:
        result = kept.run("a", "git worktree add -q -b x ../x; echo b > ../x/b.txt")

        check_kept(kept, result, str(folder_of(kept).with_name("x")), "b.txt")

    def test_a_bare_repository_has_a_history_too(self, kept: Site, checkout: Checkout, tmp_path: Path) -> None:
        bare = tmp_path / "bare.git"
        checkout.git("clone", "--quiet", "--bare", str(checkout.path), str(bare))

        result = kept.run("a", f"git checkout -q --detach; {WORK}; git checkout -q -", workdir=str(bare))

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.git("--git-dir", str(bare), "show", f"{kept.branch}:b.txt") == "precious"

    def test_a_branch_that_was_only_looked_at_is_no_change(self, kept: Site, checkout: Checkout) -> None:
        checkout.git("branch", "theirs")
        checkout.git("checkout", "-q", "theirs")
        checkout.commit("Theirs", theirs="x\n")
        checkout.git("checkout", "-q", "main")

        result = kept.run("a", "git checkout -q --detach theirs")

        assert result.outcome is Outcome.COMPLETED
        assert "it changed nothing" in (result.log or "")
        assert "theirs.txt" not in files_on(kept)

    @pytest.mark.parametrize(
        "script",
        [
            f"{FIRST} git branch backup; echo second > b.txt; git commit -qa --amend -m second",
            f"{FIRST} echo x > c.txt; {COMMIT} c; git reset -q --soft HEAD~2; echo second > b.txt; {COMMIT} second",
        ],
    )
    def test_what_was_rewritten_does_not_come_back(self, kept: Site, checkout: Checkout, script: str) -> None:
        result = kept.run("a", script)

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("b.txt", on=kept.branch) == "second"

    def test_commits_of_others_that_a_job_rewrites_away_stay(self, kept: Site) -> None:
        result = kept.run("a", f"git reset -q --hard HEAD~1; {WORK}")

        assert result.outcome is Outcome.COMPLETED
        assert {"b.txt", "second.txt"} <= files_on(kept)

    def test_sides_that_conflict_fail_with_both_commits(self, kept: Site, checkout: Checkout) -> None:
        result = kept.run("a", f"git checkout -qb mine; {WORK}; git checkout -q -; echo other > b.txt; {COMMIT} other")

        mine = checkout.git("rev-parse", "mine")
        check_kept(kept, result, mine[:12], "on mine", "in b.txt")

    def test_an_agent_is_told_what_it_has_left(self, kept: Site) -> None:
        result = kept.run("a", agent(f"{WORK}; git reset -q --hard HEAD~1"))

        check_kept(kept, result, "was dropped with git reset", "git revert")
        assert "was dropped with git reset" in result.carry_over["feedback"]

    def test_a_commit_that_was_reverted_is_no_change(self, kept: Site) -> None:
        result = kept.run("a", f"{WORK}; git revert --no-edit HEAD")

        assert result.outcome is Outcome.COMPLETED, result
        assert "b.txt" not in files_on(kept)

    def test_a_branch_of_its_own_without_the_files_deletes_nothing(self, kept: Site) -> None:
        result = kept.run("a", "git checkout -q --orphan pages; git rm -rfq .; echo x > index.html")

        check_kept(kept, result, "branch without history", str(folder_of(kept)))

    def test_the_branch_of_the_run_cannot_be_moved_back(self, kept: Site, checkout: Checkout) -> None:
        kept.run("first", "echo 1 > 1.txt")
        commit = checkout.git("rev-parse", kept.branch)

        result = kept.run("a", f"git update-ref refs/heads/{kept.branch} main; echo a > a.txt")

        assert result.outcome is Outcome.FAILED
        assert f"git update-ref refs/heads/{kept.branch} {commit}" in (result.error or "")


class TestUnfinished:
    CONFLICT = (
        f"git checkout -qb side; echo side > readme.txt; {COMMIT} side; echo more > more.txt; {COMMIT} more;"
        f"git checkout -q -; echo main > readme.txt; {COMMIT} main;"
    )

    @pytest.mark.parametrize(
        ("script", "says"),
        [
            ("git rebase -q side", "a rebase has stopped"),
            (
                "git format-patch -q -2 side -o ..; git am -q ../000*.patch; rm ../000*; echo ok > readme.txt",
                "git am has stopped",
            ),
            ("git cherry-pick side~1 side", "cherry-pick or revert of several commits has stopped"),
        ],
    )
    def test_a_series_that_has_stopped_fails_the_attempt(self, kept: Site, script: str, says: str) -> None:
        result = kept.run("a", f"{self.CONFLICT} {script} || echo resolved > readme.txt")

        check_kept(kept, result, says, str(folder_of(kept)))

    @pytest.mark.parametrize("command", ["merge -q side", "cherry-pick side", "revert --no-edit HEAD~1"])
    def test_one_that_is_resolved_and_not_committed_is_committed(
        self, kept: Site, checkout: Checkout, command: str
    ) -> None:
        checkout.git("checkout", "-qb", "side")
        checkout.commit("Side", readme="side\n")
        checkout.git("checkout", "-q", "main")
        commits = "".join(f"echo {text} > readme.txt; {COMMIT} {text};" for text in ("one", "two"))

        result = kept.run("a", f"{commits} git {command} || echo resolved > readme.txt")

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("readme.txt", on=kept.branch) == "resolved"

    def test_one_with_markers_left_fails(self, kept: Site) -> None:
        result = kept.run("a", f"{self.CONFLICT} git merge -q side || true")

        check_kept(kept, result, "conflicts are left in readme.txt")

    def test_what_a_merge_has_put_aside_comes_too(self, kept: Site) -> None:
        result = kept.run(
            "a", f"{self.CONFLICT} echo aside >> second.txt; git merge -q --autostash side; echo resolved > readme.txt"
        )

        assert result.outcome is Outcome.COMPLETED, result
        assert kept.checkout.shows("second.txt", on=kept.branch) == "2\naside"


class TestStash:
    @pytest.mark.parametrize(
        "script",
        [
            "echo precious > b.txt; git stash -q -u",
            "echo precious > b.txt; git add b.txt; git stash -q -m mine",
            f"{WORK}; echo more >> readme.txt; git stash -q",
            "git checkout -qb mine; echo precious > b.txt; git stash -q -u; git checkout -q -",
            "git checkout -q --detach; echo precious > b.txt; git stash -q -u",
            "echo precious > b.txt; git stash -q -u; git stash apply -q",
            "echo precious > b.txt; git stash -q -u; echo more >> readme.txt; git stash -q",
        ],
    )
    def test_what_a_job_stashed_is_merged_and_off_the_list(self, kept: Site, checkout: Checkout, script: str) -> None:
        result = kept.run("a", script, gates=["cat b.txt"])

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("b.txt", on=kept.branch) == "precious"
        assert ("more" in checkout.shows("readme.txt", on=kept.branch)) == ("more" in script)
        assert checkout.git("stash", "list") == ""

    def test_stashes_of_others_are_neither_taken_nor_dropped(self, kept: Site, checkout: Checkout) -> None:
        (checkout.path / "readme.txt").write_text("mine\n")
        checkout.git("stash", "push", "-q", "-m", "old")
        stash = "git -c user.name=A -c user.email=a@b stash -q -m new"
        during = f"cd '{checkout.path}'; unset GIT_COMMITTER_EMAIL; echo theirs > readme.txt; {stash}"

        result = kept.run("a", f"echo b > b.txt; git stash -qu; ({during})")

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("readme.txt", on=kept.branch) == "hello"
        assert "b.txt" in files_on(kept)
        assert [line.partition(": On main: ")[2] for line in checkout.git("stash", "list").splitlines()] == [
            "new",
            "old",
        ]

    def test_one_of_another_attempt_of_the_agent_is_left_to_that(self, kept: Site, checkout: Checkout) -> None:
        begin, ready, go = (kept.folder / name for name in ("begin", "ready", "go"))
        wait = "while ! test -e '{}'; do sleep 0.02; done;"
        theirs = f"{wait.format(begin)} echo x > other.txt; git stash -qu; touch '{ready}'; {wait.format(go)}"
        results: list[AttemptEnd] = []
        thread = threading.Thread(target=lambda: results.append(kept.run("other", agent(theirs))))
        thread.start()

        mine = kept.run("a", agent(f"touch '{begin}'; {wait.format(ready)} echo a > a.txt"))
        between = files_on(kept)
        go.touch()
        thread.join()

        assert (mine.outcome, results[0].outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
        assert "other.txt" not in between
        assert "other.txt" in files_on(kept)

    def test_one_that_conflicts_fails_with_its_commit(self, kept: Site, checkout: Checkout) -> None:
        result = kept.run("a", f"echo one > readme.txt; git stash -q; echo two > readme.txt; {COMMIT} two")

        check_kept(kept, result, "the stash " + checkout.git("rev-parse", "stash@{0}")[:12], "readme.txt")


class TestRepositoriesInside:
    SCAFFOLD = f"git init -q app; cd app; echo precious > main.txt; {COMMIT} scaffold; cd .."

    @pytest.mark.parametrize(
        ("script", "files"),
        [
            pytest.param(SCAFFOLD, "app/main.txt", id="with a commit"),
            pytest.param("git init -q app; echo precious > app/main.txt", "app/main.txt", id="without one"),
            pytest.param(f"mkdir -p web/x; cd web/x; {SCAFFOLD}", "web/x/app/main.txt", id="deeper"),
            pytest.param(f"{SCAFFOLD}; cd app; {SCAFFOLD}", "app/main.txt app/app/main.txt", id="one in the other"),
            pytest.param(f"{SCAFFOLD}; git add app 2>&1", "app/main.txt", id="staged"),
            pytest.param(f"{SCAFFOLD}; {COMMIT} app 2>&1", "app/main.txt", id="committed as a gitlink"),
            pytest.param(f"{SCAFFOLD}; echo more > app/more.txt", "app/main.txt app/more.txt", id="changed since"),
            pytest.param(
                f"echo '*.log' > .gitignore; git init -q app; cd app; echo x > a.log; git add -f a.log; {COMMIT} a",
                "app/a.log",
                id="tracked inside and ignored outside",
            ),
            pytest.param("git init -q --bare app.git", "app.git/HEAD", id="bare"),
            pytest.param(
                "git init -q --separate-git-dir=../app.sep app; echo x > app/main.txt",
                "app/main.txt",
                id="with its own folder elsewhere",
            ),
            pytest.param(
                "mkdir app; echo 'gitdir: /nowhere' > app/.git; echo x > app/main.txt", "app/main.txt", id="torn"
            ),
            pytest.param(f"rm .git; git init -q; {WORK}", "b.txt", id="in place of the worktree's own"),
        ],
    )
    def test_their_files_are_files_of_the_change(self, kept: Site, script: str, files: str) -> None:
        result = kept.run("a", script, gates=["ls"])

        assert result.outcome is Outcome.COMPLETED, result
        assert set(files.split()) <= files_on(kept)
        assert gitlinks_on(kept) == 0
        assert kept.files_left() == [] or "app.sep" in script

    def test_ignored_ones_stay_ignored(self, kept: Site) -> None:
        result = kept.run("a", f"echo app/ > .gitignore; {self.SCAFFOLD}")

        assert result.outcome is Outcome.COMPLETED
        assert files_on(kept) == {".gitignore", "readme.txt", "second.txt"}

    @pytest.mark.parametrize(
        ("script", "says"),
        [
            pytest.param(
                f"rm .git; git init -q; {WORK}; git checkout -qb x; {COMMIT} x --allow-empty; git checkout -q -",
                "not checked out there",
                id="work on another branch of one in place of the worktree's own",
            ),
            pytest.param("git clone -q '$ORIGIN' app", "app is a clone of another repository", id="a clone"),
            pytest.param(
                f"{SCAFFOLD}; cd app; git checkout -qb x; {COMMIT} x --allow-empty; git checkout -q -",
                "not checked out there",
                id="work on another branch",
            ),
            pytest.param(f"{SCAFFOLD}; cd app; echo x > main.txt; git stash -q", "not checked out there", id="a stash"),
            pytest.param(
                "git worktree add -q wt -b wt; echo x > wt/x.txt",
                "wt is a git worktree that the job made",
                id="a worktree",
            ),
            pytest.param(
                "mkdir ghost; git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),ghost",
                "ghost is recorded as the commit",
                id="a commit of nowhere",
            ),
            pytest.param(
                "git -c protocol.file.allow=always submodule --quiet add '$ORIGIN' sub; echo x > sub/x.txt",
                "The submodule sub",
                id="a change in a submodule",
            ),
            pytest.param(
                "git -c protocol.file.allow=always submodule --quiet add '$ORIGIN' sub;"
                f" cd sub; echo x > x.txt; {COMMIT} x",
                "would go with the worktree",
                id="a commit in a submodule",
            ),
        ],
    )
    def test_what_their_files_do_not_hold_fails_the_attempt(
        self, kept: Site, checkout: Checkout, tmp_path: Path, script: str, says: str
    ) -> None:
        origin = Checkout(tmp_path / "origin")

        result = kept.run("a", script.replace("$ORIGIN", str(origin.path)))

        check_kept(kept, result, says)
        assert (folder_of(kept) / "app" / ".git").exists() == ("app" in script)

    def test_a_submodule_is_added_when_its_commit_is_published(self, kept: Site, tmp_path: Path) -> None:
        origin = Checkout(tmp_path / "origin")

        result = kept.run(
            "a", f"git -c protocol.file.allow=always submodule --quiet add '{origin.path}' sub; echo a > a.txt"
        )

        assert result.outcome is Outcome.COMPLETED, result
        assert {"sub", ".gitmodules", "a.txt"} <= files_on(kept)

    @pytest.mark.parametrize(
        "script", ["true", f"cd sub; echo x > x.txt; git checkout -qb new; {COMMIT} x; git push -q origin new"]
    )
    def test_a_submodule_that_is_used_or_published_is_no_obstacle(
        self, runners, checkout: Checkout, tmp_path: Path, script: str
    ) -> None:
        origin = Checkout(tmp_path / "origin")
        allowed = ("-c", "protocol.file.allow=always")
        checkout.git(*allowed, "submodule", "--quiet", "add", str(origin.path), "sub")
        checkout.commit("Sub")
        site = Site(runners, checkout, tmp_path / "site")

        result = site.run("a", f"git {' '.join(allowed)} submodule --quiet update --init; {script}")

        assert result.outcome is Outcome.COMPLETED, result
        changed = checkout.git("rev-parse", f"{site.branch}:sub") != checkout.git("rev-parse", "main:sub")
        assert changed == ("push" in script)
        assert checkout.worktrees() == []

    def test_the_commits_of_a_worktree_inside_are_merged_and_its_record_goes(
        self, kept: Site, checkout: Checkout
    ) -> None:
        result = kept.run("a", f"git worktree add -q --detach wt; cd wt; {WORK}")

        assert result.outcome is Outcome.COMPLETED, result
        assert files_on(kept) == {"b.txt", "readme.txt", "second.txt"}
        assert checkout.worktrees() == []
        assert not (checkout.path / ".git" / "worktrees").exists()


class TestFiles:
    @pytest.mark.parametrize(
        "script",
        [
            "git update-index --assume-unchanged readme.txt; echo new > readme.txt",
            "git update-index --skip-worktree readme.txt; echo new > readme.txt",
            'echo new > readme.txt; echo broken > "$(git rev-parse --git-dir)/index"',
            'echo new > readme.txt; rm "$(git rev-parse --git-dir)/index"',
            'echo new > readme.txt; touch "$(git rev-parse --git-dir)/index.lock"',
            "git sparse-checkout set --no-cone /readme.txt /new/; mkdir out; echo x > out/x; echo new > readme.txt",
            "echo new > readme.txt; mkfifo pipe; mkdir empty; ln -s nowhere link",
        ],
    )
    def test_changes_that_git_would_not_see_are_committed(self, kept: Site, checkout: Checkout, script: str) -> None:
        result = kept.run("a", script)

        assert result.outcome is Outcome.COMPLETED, result
        assert checkout.shows("readme.txt", on=kept.branch) == "new"
        assert "second.txt" in files_on(kept)
        assert ("out/x" in files_on(kept)) == ("out/x" in script)

    def test_what_git_cannot_add_is_named(self, runners, checkout: Checkout, tmp_path: Path) -> None:
        checkout.git("config", "filter.no.clean", "false")
        checkout.git("config", "filter.no.required", "true")
        checkout.note()
        site = Site(runners, checkout, tmp_path / "site", keep=timedelta(days=1))

        result = site.run("a", "echo '*.bin filter=no' > .gitattributes; echo x > big.bin")

        check_kept(site, result, "big.bin")

    def test_a_file_that_git_reads_for_hours_fails_the_attempt_in_time(
        self, kept: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.workspaces.git.QUICK", timedelta(seconds=1))

        result = kept.run("a", "truncate --size=8T huge", timeout=timedelta(seconds=1))

        check_kept(kept, result, "did not get through the files", "within 1.0s", ".gitignore")

    def test_names_that_git_refuses_are_named(self, kept: Site) -> None:
        result = kept.run("a", "mkdir -p x/.GIT; echo x > x/.GIT/y; git config core.protectNTFS true")

        check_kept(kept, result, "x/.GIT/y")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    @pytest.mark.parametrize("script", ["mkdir x; echo x > x/y; chmod 0 x", "echo x > x; chmod 0 x"])
    def test_what_may_not_be_read_is_named(self, kept: Site, script: str) -> None:
        check_kept(kept, kept.run("a", script), "x")

    def test_a_configuration_that_breaks_the_checkout_fails_and_others_are_named(
        self, kept: Site, checkout: Checkout
    ) -> None:
        named = kept.run("named", "git config core.hooksPath .husky; echo a > a.txt")
        hidden = kept.run("hidden", 'echo "c.txt" >> "$(git rev-parse --git-path info/exclude)"; echo c > c.txt')
        broken = kept.run("a", "git config core.bare true; echo b > b.txt")
        checkout.git("config", "core.bare", "false")

        assert named.outcome is Outcome.COMPLETED
        assert "config changed: core.hookspath" in (named.log or "")
        assert "info/exclude changed: what it names is not committed" in (hidden.log or "")
        assert broken.outcome is Outcome.FAILED
        assert "core.bare was changed in" in (broken.error or "")


class TestWorktreesThatAreGone:
    def test_what_was_committed_is_named_and_stays_on_the_tasks_branch(self, kept: Site, checkout: Checkout) -> None:
        result = kept.run("a", agent(f"{WORK}; p=$PWD; cd /; git -C $p worktree remove --force $p"))
        again = kept.again("a", agent("cat b.txt"), result)

        assert result.outcome is Outcome.FAILED
        assert "is gone" in (result.error or "")
        assert "/a" in (result.error or "").partition("what it committed is ")[2]
        assert (again.outcome, "b.txt" in files_on(kept)) == (Outcome.COMPLETED, True)
        assert checkout.branches() == [kept.branch]

    @pytest.mark.parametrize("move", ["git worktree move $PWD '$TO'", "mv $PWD '$TO'"])
    def test_one_that_was_moved_is_named(self, kept: Site, checkout: Checkout, tmp_path: Path, move: str) -> None:
        to = tmp_path / "moved"

        result = kept.run("a", f"echo b > b.txt; {move.replace('$TO', str(to))}")

        assert result.outcome is Outcome.FAILED
        assert str(folder_of(kept)) in (result.error or "")
        assert (str(to) in (result.error or "")) == ("worktree" in move)
        assert (to / "b.txt").exists()

    def test_one_whose_record_is_gone_is_kept(self, kept: Site, checkout: Checkout) -> None:
        result = kept.run("a", 'echo b > b.txt; rm -rf "$(git rev-parse --git-dir)"')

        check_kept(kept, result, "git's record", str(folder_of(kept)))
        assert (folder_of(kept) / "b.txt").exists()
