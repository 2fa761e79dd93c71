"""Test that an agent is informed when others changed and merged its files, while it works or when it continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from tests.support.repositories import Checkout, Site, agent
from workers.runners.base import Control

READ = {"agent": "custom", "prompt": "Do it", "command": ["cat"]}


class Job:
    """A runner whose job reports now and then; *does* gets its folder and a function that reports."""

    def __init__(self, does: Callable[[Path, Callable[[], str | None]], None]) -> None:
        self.does = does

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        assert claim.workdir is not None
        assert control.news is not None
        self.does(Path(claim.workdir), control.news)
        return AttemptEnd(Outcome.COMPLETED)


def run_job(site: Site, does: Callable[[Path, Callable[[], str | None]], None]) -> AttemptEnd:
    claim = site.claim("ours", agent("true"))
    with site.control() as control:
        result = site.attempt(claim, control, runner=Job(does))
        assert control.news is None
    site.worktrees.committed(claim, result, refused=False)
    return result


class TestWhileItWorks:
    def test_it_is_told_once_of_files_that_it_has_changed_too(self, site: Site, checkout: Checkout) -> None:
        heard: list[str | None] = []

        def does(folder: Path, report: Callable[[], str | None]) -> None:
            (folder / "readme.txt").write_text("ours\n")
            (folder / "new.txt").write_text("ours\n")
            heard.append(report())
            site.run("theirs", "echo theirs > readme.txt; echo theirs > other.txt; echo theirs > new.txt")
            heard.extend([report(), report()])

        result = run_job(site, does)

        assert result.outcome is Outcome.DEFERRED  # its change conflicts, as it was informed
        before, reports, after = heard
        assert (before, after) == (None, None)
        assert reports is not None
        assert "- new.txt\n- readme.txt\n" in reports
        assert "other.txt" not in reports
        assert "Do theirs" in reports
        head = checkout.git("rev-parse", site.branch)[:12]
        assert f'"git diff {checkout.git("rev-parse", "main")[:12]} {head} -- PATH"' in reports
        events = [payload for _, payload in site.events if "others_merged" in payload]
        assert events == [{"others_merged": head, "files": ["new.txt", "readme.txt"]}]

    def test_of_other_files_it_is_not_told(self, site: Site) -> None:
        heard: list[str | None] = []

        def does(folder: Path, report: Callable[[], str | None]) -> None:
            (folder / "ours.txt").write_text("ours\n")
            site.run("theirs", "echo theirs > readme.txt")
            heard.append(report())

        assert run_job(site, does).outcome is Outcome.COMPLETED
        assert heard == [None]

    def test_what_it_changes_later_is_compared_with_what_is_merged_later(self, site: Site) -> None:
        heard: list[str | None] = []

        def does(folder: Path, report: Callable[[], str | None]) -> None:
            site.run("theirs", "echo theirs > a.txt")
            heard.append(report())
            (folder / "a.txt").write_text("ours\n")
            site.run("third", "echo third >> a.txt")
            heard.append(report())

        run_job(site, does)

        assert heard[0] is None
        assert "- a.txt\n" in str(heard[1])

    def test_a_look_that_cannot_be_had_stops_nobody(self, site: Site, checkout: Checkout) -> None:
        heard: list[str | None] = []

        def does(_folder: Path, report: Callable[[], str | None]) -> None:
            branch = checkout.path / ".git" / "refs" / "heads" / site.branch
            was = branch.read_text()
            branch.write_text("rubbish\n")
            heard.append(report())
            branch.write_text(was)

        assert run_job(site, does).outcome is Outcome.COMPLETED
        assert heard == [None]


class TestWhenItGoesOn:
    def test_its_prompt_says_what_others_have_merged_to_its_files(self, site: Site, checkout: Checkout) -> None:
        first = site.run("ours", agent("echo ours > readme.txt; echo ours > a.txt"), gates=["false"])
        site.run("theirs", "echo theirs > readme.txt; echo theirs > b.txt")

        second = site.again("ours", READ, first, gates=["false"])

        output = str(second.output)
        assert output.startswith("Do it\n\nOthers have merged changes of files that you have changed, too, to coord/")
        assert "\n- readme.txt\nin the commits:\n- " in output
        assert "Do theirs" in output
        assert "a.txt" not in output

    def test_where_nothing_touches_its_files_the_prompt_stays_as_it_was(self, site: Site) -> None:
        first = site.run("ours", agent("echo ours > readme.txt"), gates=["false"])
        site.run("theirs", "echo theirs > b.txt")

        assert site.again("ours", READ, first, gates=["false"]).output == "Do it"
