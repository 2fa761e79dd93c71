"""Test how a worker detects the files that an agent changed in its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs.changed_files import ChangeSummary, sentence_of
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from tests.support.jobs import claim_of
from tests.support.repositories import Checkout
from workers.attempt.running import RunningAttempt
from workers.attempt.steps.changed_files import EffectsStep
from workers.runners.base import Control, StopReason
from workers.runners.process import Launcher

AGENT = {"agent": "claude", "prompt": "Mend it"}


class Agent:
    """A runner that calls a function with the attempt's folder as its job."""

    def __init__(self, work: Callable[[Path], object], **result: Any) -> None:
        self.work = work
        self.result = {"outcome": Outcome.COMPLETED, **result}

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        assert claim.workdir is not None
        self.work(Path(claim.workdir))
        return AttemptEnd(**self.result)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(params=["repository", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "work"
    if request.param == "repository":
        Checkout(place).commit("More", kept="a\n")
    else:
        place.mkdir()
        (place / "readme.txt").write_text("hello\n")
    return place


def run_observed(launcher: Launcher, agent: Agent, claim: Claim, control: Control) -> AttemptEnd:
    attempt = RunningAttempt(claim, claim, claim, control, is_ours=lambda: True)
    return EffectsStep(launcher)(attempt, lambda inside: agent.run(inside.claim, inside.control))


def observed(
    launcher: Launcher,
    folder: Path,
    work: Callable[[Path], object],
    *,
    claim: dict[str, Any] | None = None,
    **ended: Any,
) -> AttemptEnd:
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with Control(scratch=scratch) as control:
        attempt_claim = claim_of(AGENT, workdir=str(folder), **(claim or {}))
        return run_observed(launcher, Agent(work, **ended), attempt_claim, control)


EXPECTS = {"options": {"expects": "changes"}}

CHANGES = {
    "a new file": lambda place: (place / "new.txt").write_text("x"),
    "a file of other content": lambda place: (place / "readme.txt").write_text("other\n"),
    "a file taken away": lambda place: (place / "readme.txt").unlink(),
    "a file in a new folder": lambda place: ((place / "ä b").mkdir(), (place / "ä b" / "x\ty").write_text("x")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(launcher: Launcher, folder: Path, what: str) -> None:
    result = observed(launcher, folder, CHANGES[what], claim=EXPECTS)

    assert (result.outcome, result.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))
    assert result.log is None


def test_nothing_changed_is_shown_with_the_tools_that_were_refused(launcher: Launcher, folder: Path) -> None:
    result = observed(launcher, folder, lambda _: None, effect=ChangeSummary(refused=3), log="warning: x\n")

    assert (result.outcome, result.error) == (Outcome.COMPLETED, None)
    assert result.effect == ChangeSummary(changed=False, refused=3)
    assert result.log == "warning: x\n[agent] changed nothing, 3 tools refused"


def test_it_fails_where_changes_are_expected_and_the_next_attempt_is_told(launcher: Launcher, folder: Path) -> None:
    result = observed(launcher, folder, lambda _: None, claim=EXPECTS, effect=ChangeSummary(refused=1))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
    assert result.error == "it changed nothing, 1 tool refused, and its plan says expects: changes"
    assert "Make the changes that the task asks for" in result.carry_over["feedback"]


def test_what_an_earlier_attempt_changed_counts(launcher: Launcher, folder: Path) -> None:
    result = observed(launcher, folder, lambda _: None, claim={**EXPECTS, "carried_over": {"changed": True}})

    assert (result.outcome, result.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))


@pytest.mark.parametrize("question", [None, "Which colour?"])
def test_one_that_goes_on_later_has_not_failed_yet(launcher: Launcher, folder: Path, question: str | None) -> None:
    ended: dict[str, Any] = {"outcome": Outcome.DEFERRED, "question": question}
    still = observed(launcher, folder, lambda _: None, claim=EXPECTS, **ended)
    moved = observed(launcher, folder, CHANGES["a new file"], claim=EXPECTS, **ended)

    assert still.outcome is Outcome.DEFERRED
    assert ("changed" not in still.carry_over, still.effect) == (True, None)
    assert moved.carry_over["changed"] is True


@pytest.mark.parametrize("unseen", ["it was stopped by a shutdown", "its worker died"])
def test_what_an_attempt_changed_counts_whose_end_nobody_saw(launcher: Launcher, folder: Path, unseen: str) -> None:
    left: dict[str, Any] = {}
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    with Control(scratch=scratch, on_remember=left.update) as control:

        def work(place: Path) -> None:
            (place / "new.txt").write_text("x")
            control.stop(StopReason.SHUTDOWN)

        claim = claim_of(AGENT, workdir=str(folder), **EXPECTS)
        stopped = run_observed(launcher, Agent(work, outcome=Outcome.HANDED_BACK), claim, control)
    carried = dict(stopped.carry_over) if unseen == "it was stopped by a shutdown" else left

    done = observed(launcher, folder, lambda _: None, claim={**EXPECTS, "carried_over": carried})
    elsewhere = {"before": {**carried["before"], "folder": "/elsewhere"}}
    other = observed(launcher, folder, lambda _: None, claim={**EXPECTS, "carried_over": elsewhere})

    assert (done.outcome, done.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))
    assert other.outcome is Outcome.FAILED


@pytest.mark.parametrize("ended", [Outcome.DEFERRED, Outcome.FAILED])
def test_an_attempt_without_an_effect_counts_for_none(launcher: Launcher, folder: Path, ended: Outcome) -> None:
    first = observed(launcher, folder, lambda _: None, claim=EXPECTS, outcome=ended)

    result = observed(launcher, folder, lambda _: None, claim={**EXPECTS, "carried_over": first.carry_over})

    assert result.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "script",
    [
        "echo x > new.txt; git stash -qu",
        "git checkout -qb aside; echo x > new.txt; git add .; git commit -qm x; git checkout -q -",
        "cd inside; echo y > kept.txt",
        "cd inside; echo y > kept.txt; git add .; git commit -qm y",
    ],
)
def test_work_that_git_keeps_out_of_sight_is_a_change(launcher: Launcher, tmp_path: Path, script: str) -> None:
    checkout = Checkout(tmp_path / "work")
    Checkout(checkout.path / "inside").commit("More", kept="a\n")

    result = observed(launcher, checkout.path, lambda _: sh(checkout, script), claim=EXPECTS)

    assert (result.outcome, result.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))


@pytest.mark.parametrize("script", ["git checkout -qb aside; git checkout -q -", "git reset -q --hard", "git status"])
def test_to_look_around_in_a_repository_is_no_change(launcher: Launcher, tmp_path: Path, script: str) -> None:
    checkout = Checkout(tmp_path / "work")

    result = observed(launcher, checkout.path, lambda _: sh(checkout, script))

    assert result.effect == ChangeSummary(changed=False)


def sh(checkout: Checkout, script: str) -> None:
    """Run an agent's shell script in the checkout."""
    checkout.git("-c", f"alias.script=!{script}", "script")


def test_a_commit_is_a_change_and_what_git_ignores_is_none(launcher: Launcher, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "work")
    (checkout.path / ".gitignore").write_text("built\n")
    (checkout.path / "dirty.txt").write_text("before\n")

    ignored = observed(launcher, checkout.path, lambda place: (place / "built").write_text("x"))
    again = observed(launcher, checkout.path, lambda place: (place / "dirty.txt").write_text("after\n"))
    committed = observed(launcher, checkout.path, lambda _: checkout.commit("Work", more="x\n"))

    assert [result.effect for result in (ignored, again, committed)] == [
        ChangeSummary(changed=False),
        ChangeSummary(changed=True),
        ChangeSummary(changed=True),
    ]


def test_where_it_cannot_be_told_nothing_is_said(launcher: Launcher, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "work"
    place.mkdir()
    (place / "a").write_text("x")
    monkeypatch.setattr("workers.attempt.steps.changed_files._MOST_FILES", 0)

    result = observed(launcher, place, lambda _: None, claim=EXPECTS)

    assert (result.outcome, result.effect) == (Outcome.COMPLETED, None)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({"changed": False, "refused_tools": 3}, "changed nothing, 3 tools refused"),
        ({"changed": True, "refused_tools": 1}, "1 tool refused"),
        ({"changed": None, "refused_tools": 0}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_sentence_for_what_is_stored(stored: object, sentence: str | None) -> None:
    assert sentence_of(stored) == sentence
