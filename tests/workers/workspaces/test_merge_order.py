"""Test that merges do not overlap: while one attempt has the merge lock, no other runs its gates or merges."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

from coordination.domain.jobs.checkouts import run_slug
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.processes import until
from tests.support.repositories import Checkout, Site, merged_meanwhile
from workers.workspaces.merge_lock import hold_lock, queue_folder


def test_while_one_merges_a_second_neither_starts_its_gates_nor_lands(
    site: Site, checkout: Checkout, tmp_path: Path
) -> None:
    queue = queue_folder(site.root, checkout.path / ".git", run_slug(site.run_id))
    gates = tmp_path / "gates"
    other = merged_meanwhile(site, "first", "echo 1 > first.txt")
    results: list[AttemptEnd] = []

    def work() -> None:
        results.append(site.run("second", f"{other}; echo 2 > second.txt", gates=[f"echo ran >> '{gates}'"]))

    second = threading.Thread(target=work)
    with site.control() as control, hold_lock(queue, control, limit=timedelta(seconds=60)):
        second.start()
        until(lambda: len(list(queue.iterdir())) == 3 or not second.is_alive(), what="another ticket")
        ran = gates.read_text().splitlines()
        head = checkout.git("ls-tree", "--name-only", site.branch).split()

        assert (results, ran, head) == ([], ["ran"], ["first.txt", "readme.txt"])
    second.join(60)

    assert [result.outcome for result in results] == [Outcome.COMPLETED]
    assert gates.read_text().splitlines() == ["ran", "ran"]
    assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["first.txt", "readme.txt", "second.txt"]


def test_a_branch_that_somebody_moves_during_the_gates_is_merged_with_anew(site: Site, checkout: Checkout) -> None:
    base = checkout.git("rev-parse", "main")
    moved = []
    for number, name in enumerate(("first", "third")):
        assert site.run(name, f"echo {number} > {name}.txt").outcome is Outcome.COMPLETED
        moved.append(f"git update-ref refs/heads/{site.branch} {checkout.git('rev-parse', site.branch)}")
    checkout.git("update-ref", f"refs/heads/{site.branch}", base)
    gate = f"test ! -e first.txt || {moved[1]}"  # as a program outside the project would, after the merge was made

    result = site.run("second", f"{moved[0]}; echo 2 > second.txt", gates=[gate])

    assert result.outcome is Outcome.COMPLETED
    assert checkout.git("ls-tree", "--name-only", site.branch).split() == [
        "first.txt",
        "readme.txt",
        "second.txt",
        "third.txt",
    ]


def test_a_record_of_a_merge_counts_only_while_its_commit_is_on_the_branch(site: Site, checkout: Checkout) -> None:
    first = site.run("fix", "echo 1 > fixed.txt", stored=False)  # its record stays
    again = site.run("fix", "echo 2 > fixed.txt", stored=False, attempt=2)
    kept = checkout.shows("fixed.txt", on=site.branch)
    checkout.git("update-ref", f"refs/heads/{site.branch}", checkout.git("rev-parse", "main"))

    anew = site.run("fix", "echo 3 > fixed.txt", attempt=3)

    assert {first.outcome, again.outcome, anew.outcome} == {Outcome.COMPLETED}
    assert (kept, checkout.shows("fixed.txt", on=site.branch)) == ("1", "3")
