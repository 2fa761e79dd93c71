"""Test changes that conflict, and attempts that continue where the last one stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coordination.base.json_values import json_problem
from coordination.domain.jobs import parse_job, templates
from coordination.domain.jobs.checkouts import parse_checkout, parse_gates, task_branch
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.repositories import Checkout, Site, agent, merged_meanwhile
from workers.attempt.running import Proceed, RunningAttempt


class TestAnAgentThatHasToTryAgain:
    def test_it_goes_on_from_its_own_change_and_still_makes_one_commit(self, site: Site, checkout: Checkout) -> None:
        first = site.run("fix", agent("echo half > a.txt"), gates=["grep whole a.txt"])

        second = site.again(
            "fix", agent("cat a.txt; git status --short; echo whole >> a.txt"), first, gates=["cat a.txt"]
        )

        assert first.error == "gate 'grep whole a.txt' failed: exit status 1"
        assert (second.outcome, second.output) == (Outcome.COMPLETED, "half\nA  a.txt")
        assert checkout.shows("a.txt", on=site.branch) == "half\nwhole"
        assert checkout.git("rev-list", "--count", f"main..{site.branch}") == "1"
        assert checkout.branches() == [site.branch]

    def test_when_only_the_merge_failed_its_gates_it_goes_on_from_the_merge(
        self, site: Site, checkout: Checkout
    ) -> None:
        gates = ["test $(ls *.part | wc -l) -lt 2"]
        other = merged_meanwhile(site, "b", "echo b > b.part")
        first = site.run("c", agent(f"echo c > c.part; {other}"), gates=gates)

        second = site.again("c", agent("ls *.part; rm b.part"), first, gates=gates)

        assert (second.outcome, second.output) == (Outcome.COMPLETED, "b.part\nc.part")
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["c.part", "readme.txt"]
        assert checkout.git("log", "--first-parent", "--format=%s", site.branch).splitlines() == [
            "Do c",
            "Do b",
            "Begin",
        ]

    def test_a_command_begins_anew(self, site: Site) -> None:
        first = site.run("fix", "echo line >> a.txt", gates=["false"])

        second = site.again("fix", "test ! -e a.txt && echo line >> a.txt", first)

        assert (sorted(first.carry_over), second.outcome) == (["feedback", "merge"], Outcome.COMPLETED)


def test_a_variant_of_which_nobody_could_say_whether_it_was_first_is_only_merged_later(
    site: Site, checkout: Checkout
) -> None:
    def ask_whether_first(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        return replace(proceed(attempt), outcome=Outcome.DEFERRED, error="The database is away")

    work = agent("""echo '{"model": "m", "input_tokens": 5, "output_tokens": 1}' >> "$COORD_COSTS"; echo a > a.txt""")
    claim = site.claim("make", work)
    with site.control() as control:
        first = site.attempt(claim, control, more=[ask_whether_first])

    second = site.again("make", agent("echo twice >> a.txt"), first)

    assert (first.outcome, len(first.usage), "away" in (first.error or "")) == (Outcome.DEFERRED, 1, True)
    assert second.outcome is Outcome.COMPLETED
    assert checkout.shows("a.txt", on=site.branch) == "a"
    assert site.files_left() == []


class TestConflicts:
    @pytest.fixture
    def other(self, site: Site) -> str:
        return merged_meanwhile(site, "theirs", "echo theirs > readme.txt")

    def test_a_command_runs_again_on_top_uncharged_and_not_for_ever(
        self, site: Site, checkout: Checkout, other: str
    ) -> None:
        first = site.run("ours", f"echo ours >> readme.txt; {other}", gates=["true"])

        assert (first.outcome, first.discovered) == (Outcome.DEFERRED, ())
        assert "conflicts with what others have merged" in (first.error or "")
        assert "in readme.txt" in (first.error or "")
        second = site.again("ours", "echo ours >> readme.txt", first)
        assert second.outcome is Outcome.COMPLETED
        assert checkout.shows("readme.txt", on=site.branch) == "theirs\nours"
        assert (checkout.branches(), site.files_left()) == ([site.branch], [])

    def test_after_three_times_a_command_has_failed(self, site: Site, other: str) -> None:
        result = site.run("ours", f"echo ours > readme.txt; {other}", carried_over={"conflicts": 3})

        assert (result.outcome, result.carry_over["conflicts"]) == (Outcome.FAILED, None)
        assert "4 times in a row" in (result.error or "")

    def test_one_that_must_not_be_repeated_fails_and_keeps_its_change(
        self, site: Site, checkout: Checkout, other: str
    ) -> None:
        result = site.run("ours", f"echo ours > readme.txt; {other}", repeatable=False)

        branch = task_branch(site.run_id, "ours")
        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert f"the change is on {branch}" in (result.error or "")
        assert checkout.shows("readme.txt", on=branch) == "ours"

    def test_an_agents_becomes_a_task_that_sees_both_sides(self, site: Site, checkout: Checkout, other: str) -> None:
        work = agent(f"echo ours > readme.txt; {other}; echo {{%raw", env={"A": "b"})

        result = site.run("ours", work | {"prompt": "Say ours {{ now }} {% raw %}"}, gates=["make -v"], max_attempts=2)

        assert (result.outcome, result.error) == (
            Outcome.DEFERRED,
            f"its change conflicts with what others have merged to {site.branch}, in readme.txt",
        )
        (discovered,) = result.discovered
        task = discovered.task
        assert discovered.blocks_finder
        assert (task["key"], task["agent"], task["gates"], task["max_attempts"]) == (
            "ours-merge-1",
            "dave/vc",
            ["make -v"],
            3,
        )
        assert parse_checkout(task["checkout"]).merge is not None
        assert parse_gates(task["gates"])
        prompt = templates.fill(task["run"]["prompt"], {})
        created = checkout.git("rev-parse", task_branch(site.run_id, "ours"))
        for piece in ("Merge them", "- readme.txt (content)", f"commit {created[:12]}", "Say ours {{ now }}"):
            assert piece in prompt
        assert parse_job(task["run"]).to_json()["env"] == {"A": "b"}
        templates.check_work(task["run"], needs=())
        output = templates.render(task["run"], needs={}, context={})
        assert "Say ours {{ now }} {% raw %}" in output["prompt"]
        assert output["command"] == work["command"]
        json.dumps([dict(task), result.carry_over])
        assert checkout.shows("readme.txt", on=task_branch(site.run_id, "ours")) == "ours"
        assert site.files_left() == []

    def test_names_that_are_no_text_do_no_harm(self, site: Site, checkout: Checkout) -> None:
        name = "$(printf 'n\\377.txt')"
        other = merged_meanwhile(site, "theirs", f"echo theirs > {name}")

        result = site.run("ours", agent(f"echo ours > {name}; {other}"))

        assert (result.outcome, (result.error or "")[-6:]) == (Outcome.DEFERRED, "n\N{REPLACEMENT CHARACTER}.txt")
        (discovered,) = result.discovered
        assert json_problem([dict(discovered.task), result.error, dict(result.carry_over)]) is None
        assert "- n\N{REPLACEMENT CHARACTER}.txt (add/add)" in discovered.task["run"]["prompt"]
        read = {**agent("true"), "command": ["cat"]}
        left = site.run(discovered.task["key"], read, checkout=discovered.task["checkout"])
        assert left.error == "conflicts are left in n\N{REPLACEMENT CHARACTER}.txt (add/add)"
        assert "+theirs" in str(left.output)

    def test_when_that_is_done_the_first_one_completes_without_running_again(
        self, site: Site, checkout: Checkout, other: str
    ) -> None:
        first = site.run("ours", agent(f"echo said; echo ours > readme.txt; {other}"), gates=["true"])
        merge = first.discovered[0].task
        resolve = "grep -c '<<<<<<<' readme.txt; printf 'theirs\\nours\\n' > readme.txt"

        resolved = site.run(
            merge["key"], agent(resolve), checkout=merge["checkout"], gates=merge["gates"], title=merge["title"]
        )
        last = site.again("ours", agent("touch ran-again"), first, gates=["true"])

        assert (resolved.outcome, resolved.output) == (Outcome.COMPLETED, "1")
        assert (last.outcome, last.output, last.usage) == (Outcome.COMPLETED, "said", ())
        assert checkout.shows("readme.txt", on=site.branch) == "theirs\nours"
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["readme.txt"]
        assert checkout.git("log", "--first-parent", "--format=%s", site.branch).splitlines() == [
            "Merge the change of ours",
            "Do theirs",
            "Begin",
        ]
        assert len(checkout.git("log", "--format=%P", "-1", site.branch).split()) == 2
        assert (checkout.branches(), checkout.worktrees(), site.files_left()) == ([site.branch], [], [])

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("true", "conflicts are left in readme.txt"),
            ("git add readme.txt", "conflicts are left in readme.txt"),
            ("git commit -qam done", "conflicts are left in readme.txt"),
            ("git merge --abort", "the merge was aborted"),
        ],
    )
    def test_a_merge_that_is_not_done_fails(
        self, site: Site, checkout: Checkout, other: str, script: str, why: str
    ) -> None:
        first = site.run("ours", agent(f"echo ours > readme.txt; {other}"))
        merge = first.discovered[0].task

        result = site.run(merge["key"], agent(script), checkout=merge["checkout"])

        assert (result.outcome, result.error) == (Outcome.FAILED, why)
        assert result.carry_over["feedback"]
        assert checkout.shows("readme.txt", on=site.branch) == "theirs"

    def test_a_merge_whose_conflict_is_gone_needs_no_agent(self, site: Site, checkout: Checkout, other: str) -> None:
        first = site.run("ours", agent(f"echo ours > readme.txt; {other}"))
        merge = first.discovered[0].task
        checkout.git("update-ref", f"refs/heads/{site.branch}", "main")

        result = site.run(merge["key"], agent("touch ran"), checkout=merge["checkout"], gates=["cat readme.txt"])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It was merged without conflicts")
        assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["readme.txt"]

    def test_a_merge_that_conflicts_again_is_done_anew(self, site: Site, checkout: Checkout, other: str) -> None:
        first = site.run("ours", agent(f"echo ours > readme.txt; {other}"))
        merge = first.discovered[0].task
        third = merged_meanwhile(site, "third", "echo third > readme.txt")

        result = site.run(merge["key"], agent(f"echo both > readme.txt; {third}"), checkout=merge["checkout"])
        again = site.again(merge["key"], agent("echo all > readme.txt"), result, checkout=merge["checkout"])

        assert result.outcome is Outcome.DEFERRED
        assert "has changed" in result.carry_over["feedback"]
        assert again.outcome is Outcome.COMPLETED
        assert checkout.shows("readme.txt", on=site.branch) == "all"

    def test_after_three_rounds_a_person_has_to_look(self, site: Site, checkout: Checkout, other: str) -> None:
        result = site.run("ours", agent(f"echo ours > readme.txt; {other}"))
        for attempt in (2, 3, 4):
            assert result.outcome is Outcome.DEFERRED
            result = site.again("ours", agent("touch ran-again"), result, attempt=attempt)

        branch = task_branch(site.run_id, "ours")
        assert (result.outcome, result.retryable, result.carry_over["merge"]) == (Outcome.FAILED, False, None)
        assert "after 3 rounds of merging" in (result.error or "")
        assert branch in (result.error or "")
        assert checkout.shows("readme.txt", on=branch) == "ours"

    def test_a_conflict_that_a_job_leaves_behind_is_no_result(self, site: Site, checkout: Checkout) -> None:
        script = (
            "git checkout -qb x; echo x > readme.txt; git commit -qam x;"
            "git checkout -qb y HEAD~1; echo y > readme.txt; git commit -qam y; git merge -q x"
        )
        result = site.run("a", f"{script} || true")

        assert (result.outcome, result.error) == (Outcome.FAILED, "conflicts are left in readme.txt")
        checkout.git("branch", "--quiet", "-D", "x", "y")
