"""Test conflicts of every kind: one counts as resolved only when an agent or a person has decided it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from coordination.domain.jobs.checkouts import task_branch
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.repositories import Checkout, Site, agent, merged_meanwhile

pytestmark = pytest.mark.full  # each makes a repository and calls git a hundred times

LINES = "seq 1 30"
# The base; the branch's change; the task's change; the path that is named; the name of the conflict.
KINDS = {
    "binary": (r"printf 'a\0' > f", r"printf 'b\0' > f", r"printf 'c\0' > f", "f (binary)"),
    "binary on both sides anew": ("echo x > x", r"printf 'b\0' > f", r"printf 'c\0' > f", "f (binary, add/add)"),
    "deleted by the branch": (f"{LINES} > f", "rm f", "echo more >> f", "f (modify/delete)"),
    "deleted by the task": (f"{LINES} > f", "echo more >> f", "rm f", "f (modify/delete)"),
    "two names": (f"{LINES} > f", "mv f g", "mv f h", "f (rename/rename)"),
    "a new name and deleted": (f"{LINES} > f", "mv f g", "rm f", "g (rename/delete)"),
    "links": ("ln -s a f", "ln -sf b f", "ln -sf c f", "f"),
    "a link for a file": (f"{LINES} > f", "echo more >> f", "ln -sf c f", "f (distinct types)"),
    "a folder for a file": ("echo a > f", "rm f; mkdir f; echo b > f/b", "echo c > f", "(file/directory)"),
    "modes of a new file": ("echo x > x", "echo a > f", "echo a > f; chmod +x f", "f (add/add)"),
    "a folder with a new name": (
        f"mkdir d; {LINES} > d/a; seq 1 20 > d/b",
        "mv d e",
        "echo new > d/new",
        "e/new (file location)",
    ),
    "attribute": (
        "echo 'f -merge' > .gitattributes; echo a > f",
        "echo b > f",
        "echo c > f",
        "f (binary)",
    ),
    "longer markers": (
        "echo 'f conflict-marker-size=20' > .gitattributes; echo a > f",
        "echo b > f",
        "echo c > f",
        "f",
    ),
    "a name with spaces": (
        r"printf 'a\0' > ' -f\ é'",
        r"printf 'b\0' > ' -f\ é'",
        r"printf 'c\0' > ' -f\ é'",
        " -f\\ é",
    ),
}


def begins(checkout: Checkout, script: str) -> None:
    """Commit what *script* creates, as the owner."""
    subprocess.run(["/bin/sh", "-c", script], cwd=checkout.path, check=True)
    checkout.commit("More")


def conflicting(site: Site, checkout: Checkout, kind: str) -> Mapping[str, Any]:
    """Provide the conflict task of an agent whose change conflicts in this way."""
    begin, theirs, ours, _ = KINDS[kind]
    begins(checkout, begin)
    other = merged_meanwhile(site, "theirs", theirs)
    first = site.run("ours", agent(f"{ours}; {other}"))
    assert first.outcome is Outcome.DEFERRED
    return first.discovered[0].task


def resolved(site: Site, task: Mapping[str, Any], script: str) -> AttemptEnd:
    return site.run(task["key"], agent(script), checkout=task["checkout"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_does_nothing_has_resolved_nothing(site: Site, checkout: Checkout, kind: str) -> None:
    task = conflicting(site, checkout, kind)
    before = checkout.git("rev-parse", site.branch)

    result = resolved(site, task, "echo 'nothing to do, I think'")

    assert result.outcome is Outcome.FAILED
    assert (result.error or "").startswith("conflicts are left in ")
    assert KINDS[kind][3] in (result.error or "")
    assert KINDS[kind][3] in result.carry_over["feedback"]
    assert "git add PATH" in result.carry_over["feedback"]
    assert checkout.git("rev-parse", site.branch) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_says_so_keeps_what_is_there(site: Site, checkout: Checkout, kind: str) -> None:
    task = conflicting(site, checkout, kind)
    script = "git checkout --ours . ; git add -A" if kind == "longer markers" else "git add -A"

    result = resolved(site, task, script)

    assert result.outcome is Outcome.COMPLETED
    assert len(checkout.git("log", "--format=%P", "-1", site.branch).split()) == 2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"two names", "longer markers"}])
def test_an_agent_that_deletes_what_is_in_conflict_has_decided(site: Site, checkout: Checkout, kind: str) -> None:
    task = conflicting(site, checkout, kind)

    result = resolved(site, task, "git diff --name-only --diff-filter=U -z | xargs -0 rm -f --")

    assert result.outcome is Outcome.COMPLETED, result.error


@pytest.mark.parametrize(
    "script", [r"printf 'both\0' > f", "git checkout --theirs f", "rm f", "git rm -q --cached f", "ln -sf elsewhere f"]
)
def test_a_change_of_the_file_is_a_decision(site: Site, checkout: Checkout, script: str) -> None:
    task = conflicting(site, checkout, "binary")

    assert resolved(site, task, script).outcome is Outcome.COMPLETED


def test_a_file_that_was_only_touched_is_not_decided(site: Site, checkout: Checkout) -> None:
    task = conflicting(site, checkout, "binary")

    assert resolved(site, task, "touch f; cp f g; mv g f").error == "conflicts are left in f (binary)"


def test_one_of_two_names_is_enough(site: Site, checkout: Checkout) -> None:
    task = conflicting(site, checkout, "two names")

    assert resolved(site, task, "rm h").outcome is Outcome.COMPLETED
    assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["g", "readme.txt"]


def test_what_is_left_among_others_is_named(site: Site, checkout: Checkout) -> None:
    name = "for n in 1 2 3; do printf '%s\\0' {} > $n; done"
    other = merged_meanwhile(site, "theirs", name.format("theirs"))
    task = site.run("ours", agent(f"{name.format('ours')}; {other}")).discovered[0].task

    result = resolved(site, task, "git add 1; echo both > 3")

    assert result.error == "conflicts are left in 2 (binary, add/add)"


def test_markers_that_a_side_had_of_its_own_are_no_conflict(site: Site, checkout: Checkout) -> None:
    text = "printf '<<<<<<< HEAD\\na\\n>>>>>>> b\\n%s\\n' {} > f"
    begins(checkout, text.format("begin"))
    other = merged_meanwhile(site, "theirs", text.format("theirs"))
    task = site.run("ours", agent(f"{text.format('ours')}; {other}")).discovered[0].task

    left = resolved(site, task, "true")
    done = resolved(site, task, text.format("both"))

    assert (left.error, done.outcome) == ("conflicts are left in f", Outcome.COMPLETED)


@pytest.mark.parametrize(
    ("script", "error"), [("true", "conflicts are left in f"), ("git add f", None), ("echo both > f", None)]
)
def test_a_conflict_without_markers_of_a_jobs_own_merge(
    site: Site, checkout: Checkout, script: str, error: str | None
) -> None:
    own = (
        "git checkout -qb x; printf 'x\\0' > f; git add f; git commit -qam x;"
        "git checkout -qb y HEAD~1; printf 'y\\0' > f; git add f; git commit -qam y; git merge -q x >/dev/null 2>&1;"
    )
    result = site.run("a", f"{own} {script}")

    assert (result.outcome, result.error) == (Outcome.FAILED if error else Outcome.COMPLETED, error)
    checkout.git("branch", "--quiet", "-D", "x", "y")


class TestSubmodules:
    @pytest.fixture
    def task(self, site: Site, checkout: Checkout) -> Mapping[str, Any]:
        commits = [
            checkout.git("rev-parse", "HEAD"),
            *(checkout.git("commit-tree", "HEAD^{tree}", "-m", n) for n in "ab"),
        ]
        (checkout.path / ".gitmodules").write_text('[submodule "s"]\n\tpath = s\n\turl = ./nowhere\n')
        (checkout.path / "s").mkdir()
        checkout.git("add", ".gitmodules")
        checkout.git("update-index", "--add", "--cacheinfo", f"160000,{commits[0]},s")
        checkout.git("commit", "--quiet", "--message", "A submodule")
        checkout.note()
        point = "git update-index --cacheinfo 160000,{},s"
        other = merged_meanwhile(site, "theirs", point.format(commits[1]))
        first = site.run("ours", agent(f"{point.format(commits[2])}; {other}"))
        self.ours = commits[2]
        return first.discovered[0].task

    def test_one_that_is_left_is_unresolved(self, site: Site, task: Mapping[str, Any]) -> None:
        assert (resolved(site, task, "true").error or "").startswith("conflicts are left in s (submodule")

    def test_one_that_is_set_is_resolved(self, site: Site, checkout: Checkout, task: Mapping[str, Any]) -> None:
        result = resolved(site, task, f"git update-index --cacheinfo 160000,{self.ours},s")

        assert result.outcome is Outcome.COMPLETED
        assert checkout.git("ls-tree", site.branch, "s").split()[2] == self.ours


class TestWhatTheAgentIsTold:
    def test_paths_kinds_commits_and_what_each_side_has_changed(self, site: Site, checkout: Checkout) -> None:
        other = merged_meanwhile(site, "theirs", r"echo theirs > readme.txt; printf 't\0' > f")
        work = agent(rf"echo ours > readme.txt; printf 'o\0' > f; {other}")
        task = site.run("ours", work).discovered[0].task
        read = {"agent": "custom", "prompt": task["run"]["prompt"], "command": ["cat"]}

        output = str(site.run(task["key"], read, checkout=task["checkout"]).output)

        commit = task["checkout"]["merge"]["commit"]
        for piece in (
            "- f (binary, add/add)\n- readme.txt (content)",
            "CONFLICT (content): Merge conflict in readme.txt",
            f"HEAD is {checkout.git('rev-parse', site.branch)[:12]} of {site.branch}",
            f"commit {commit[:12]} is merged into it",
            "dave/vc: Do ours",
            "Do theirs",
            "-hello\n+theirs",
            "-hello\n+ours",
            '"git add PATH"',
        ):
            assert piece in output

    def test_it_is_told_of_the_branch_as_it_is_when_it_begins(self, site: Site, checkout: Checkout) -> None:
        other = merged_meanwhile(site, "theirs", "echo theirs > readme.txt; echo more > other.txt")
        task = site.run("ours", agent(f"echo ours > readme.txt; echo mine > other.txt; {other}")).discovered[0].task
        site.run("third", "echo mine > other.txt; echo third > readme.txt")
        read = {"agent": "custom", "prompt": "", "command": ["cat"]}

        output = str(site.run(task["key"], read, checkout=task["checkout"]).output)

        assert "+third" in output
        assert "other.txt" not in output


class TestWhatWasResolvedInPart:
    @pytest.fixture
    def task(self, site: Site) -> Mapping[str, Any]:
        other = merged_meanwhile(site, "theirs", "echo theirs > readme.txt; echo theirs > a")
        return site.run("ours", agent(f"echo ours > readme.txt; echo ours > a; {other}")).discovered[0].task

    def test_the_next_attempt_can_take_it_over(self, site: Site, checkout: Checkout, task: Mapping[str, Any]) -> None:
        read = {"agent": "custom", "prompt": "", "command": ["cat"]}
        where = {"checkout": task["checkout"]}

        first = site.run(task["key"], agent("echo both > a; echo more > more.txt"), **where)
        second = site.again(task["key"], read, first, **where)
        left = first.carry_over["left"][:12]
        take = agent(f"git checkout {left} -- a more.txt; echo all > readme.txt")
        third = site.again(task["key"], take, first, **where, attempt=3)

        assert (first.outcome, first.error) == (Outcome.FAILED, "conflicts are left in readme.txt")
        assert f"git checkout {left} -- PATH" in str(second.output)
        assert third.outcome is Outcome.COMPLETED
        shown = [checkout.shows(name, on=site.branch) for name in ("a", "more.txt", "readme.txt")]
        assert shown == ["both", "more", "all"]

    def test_it_stays_on_the_branch_of_the_conflict_task(
        self, site: Site, checkout: Checkout, task: Mapping[str, Any]
    ) -> None:
        site.run(task["key"], agent("echo both > a"), checkout=task["checkout"])

        assert checkout.shows("a", on=task_branch(site.run_id, task["key"])) == "both"


class TestOthersMergeMeanwhile:
    def test_it_goes_on_from_its_own_result_uncharged(self, site: Site, checkout: Checkout) -> None:
        other = merged_meanwhile(site, "theirs", "echo theirs > readme.txt; echo theirs > a")
        task = site.run("ours", agent(f"echo ours > readme.txt; echo ours > a; {other}")).discovered[0].task
        third = merged_meanwhile(site, "third", "echo third > readme.txt")

        result = resolved(site, task, f"echo both > readme.txt; echo both > a; {third}")
        again = site.again(task["key"], agent("cat a; echo all > readme.txt"), result, checkout=task["checkout"])

        assert (result.outcome, again.outcome, again.output) == (Outcome.DEFERRED, Outcome.COMPLETED, "both")
        assert "has changed" in result.carry_over["feedback"]
        assert [checkout.shows(name, on=site.branch) for name in ("a", "readme.txt")] == ["both", "all"]
        assert checkout.branches() == [task_branch(site.run_id, "ours"), site.branch]

    def test_what_merges_by_itself_then_needs_no_agent(self, site: Site, checkout: Checkout) -> None:
        other = merged_meanwhile(site, "theirs", "echo theirs > readme.txt")
        task = site.run("ours", agent(f"echo ours > readme.txt; {other}")).discovered[0].task
        third = merged_meanwhile(site, "third", "echo third > readme.txt")
        result = resolved(site, task, f"echo both > readme.txt; {third}")
        checkout.git("update-ref", f"refs/heads/{site.branch}", f"{site.branch}~1")

        again = site.again(task["key"], agent("echo ran > ran"), result, checkout=task["checkout"])

        assert (again.outcome, again.output) == (Outcome.COMPLETED, "It was merged without conflicts")
        assert checkout.shows("readme.txt", on=site.branch) == "both"
