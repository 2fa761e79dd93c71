"""Test that the collected changes decide whether a task in a worktree that expects changes succeeded."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.tasks.attempts import Outcome
from tests.support.repositories import Checkout, Site, agent

OPTIONS: dict[str, Any] = {"checkout": {"kind": "git-worktree"}, "expects": "changes"}
GATED = {**OPTIONS, "gates": [{"run": "echo gate >> ../gate; test -e good.txt"}]}


def test_one_that_changed_nothing_has_failed_before_its_gates_and_the_next_is_told(site: Site) -> None:
    first = site.run("fix", agent("cat readme.txt; git checkout -q --detach"), options=GATED)
    second = site.again("fix", agent("touch good.txt"), first, options=GATED)

    assert first.error == "it changed nothing, and its plan says expects: changes"
    assert "[gate" not in (first.log or "")
    assert "Make the changes that the task asks for" in first.carry_over["feedback"]
    assert (second.outcome, second.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))


@pytest.mark.parametrize(
    "script",
    [
        "echo x > good.txt",
        "echo x > good.txt; git add .; git commit -qm x",
        "echo x > good.txt; git stash -qu",
        "git checkout -qb aside; echo x > good.txt; git add .; git commit -qm x; git checkout -q -",
        "git worktree add -q ../beside -b beside; cd ../beside; echo x > good.txt; git add .; git commit -qm x",
    ],
)
def test_whatever_is_merged_of_it_is_a_change(site: Site, checkout: Checkout, script: str) -> None:
    result = site.run("fix", agent(script), options=OPTIONS)

    assert (result.outcome, result.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))
    assert checkout.shows("good.txt", on=site.branch) == "x"
    checkout.note()  # some leave a branch of their own


def test_what_goes_away_with_the_worktree_is_no_change(site: Site) -> None:
    script = "echo x > bad.txt; git add .; git commit -qm x; git reset -q --hard HEAD~"

    assert site.run("fix", agent(script), options=OPTIONS).outcome is Outcome.FAILED


def test_a_change_that_a_gate_refused_counts_with_the_next_attempt(site: Site) -> None:
    first = site.run("fix", agent("touch bad.txt"), options=GATED)
    second = site.again("fix", agent("true"), first, options=OPTIONS)

    assert (first.outcome, first.effect) == (Outcome.FAILED, ChangeSummary(changed=True))
    assert (second.outcome, second.effect) == (Outcome.COMPLETED, ChangeSummary(changed=True))
