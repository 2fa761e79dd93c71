"""What may run on the heels of claimed tasks: a connected piece of the graph, nothing that needs anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from coordination.domain.attempts import Claim
from coordination.store.queries.lookahead import Ahead
from tests.support.jobs import claim_of
from workers.piece import Piece


def claim(key: str, kind: str = "short") -> Claim:
    return claim_of({"python": "x:y"}, task_id=key, key=key, kind=kind)


def follower(claimed: Claim, needs: str) -> Ahead:
    """A task as it would be found, that needs those named in *needs*."""
    made = partial(_with_needs, claimed)
    return Ahead(claimed.task_id, claimed.kind, claimed.options, tuple(needs.split()), made)


def _with_needs(claimed: Claim, needs: dict[str, dict[str, Any]]) -> Claim:
    return replace(claimed, needs=needs)


def piece(held: Sequence[str], *ahead: str, long: str = "") -> Piece:
    """A piece from lines like ``"c < a b"``; tasks named in *long* are of a kind that is not short."""
    followers = []
    for line in ahead:
        key, _, needs = line.partition(" < ")
        followers.append(follower(claim(key, "long" if key in long.split() else "short"), needs))
    return Piece([claim(key) for key in held], followers, expected=lambda kind: 0.001 if kind == "short" else None)


def keys(claims: Sequence[Claim]) -> list[str]:
    return [one.key for one in claims]


def test_a_chain_goes_on_task_by_task_with_the_results_that_each_needs() -> None:
    chain = piece(["a"], "b < a", "c < b")

    (second,) = chain.completed(claim("a"), {"n": 1})
    (third,) = chain.completed(second, "two")

    assert (second.key, second.needs) == ("b", {"a": {"state": "completed", "output": {"n": 1}}})
    assert (third.key, third.needs) == ("c", {"b": {"state": "completed", "output": "two"}})
    assert chain.completed(third, None) == []


def test_what_needs_several_waits_for_the_last_of_them() -> None:
    diamond = piece(["a"], "b < a", "c < a", "d < b c")

    assert keys(diamond.completed(claim("a"), 0)) == ["b", "c"]
    assert diamond.completed(claim("c"), 2) == []
    (last,) = diamond.completed(claim("b"), 1)

    assert last.needs == {
        "b": {"state": "completed", "output": 1},
        "c": {"state": "completed", "output": 2},
    }
    assert diamond.pending(last) == 2


def test_what_needs_something_from_outside_does_not_run_ahead_nor_what_lies_behind_it() -> None:
    partly = piece(["a"], "b < a elsewhere", "c < b", "d < a")

    assert keys(partly.completed(claim("a"), 0)) == ["d"]


def test_what_is_not_known_to_be_short_does_not_run_ahead_nor_what_lies_behind_it() -> None:
    partly = piece(["a"], "b < a", "c < b", "d < c", long="c")

    (second,) = partly.completed(claim("a"), 0)

    assert partly.completed(second, 0) == []


def test_what_did_not_complete_here_releases_nothing() -> None:
    two = piece(["a", "b"], "c < a b")

    assert two.completed(claim("a"), 0) == []


def test_what_has_a_worktree_or_gates_does_not_run_ahead() -> None:
    gated = replace(claim("b"), options={"gates": ["true"]})
    lodged = replace(claim("c"), options={"workspace": {"kind": "git-worktree"}})
    ahead = [follower(one, "a") for one in (gated, lodged, claim("d"))]

    made = Piece([claim("a")], ahead, expected=lambda _: 0.001)

    assert keys(made.completed(claim("a"), 0)) == ["d"]


def test_a_piece_holds_the_nearest_up_to_so_many_seconds_of_jobs() -> None:
    ahead = [follower(claim(key), "a") for key in "bcde"]

    made = Piece([claim("a")], ahead, expected=lambda _: 0.01, most=0.025)

    assert keys(made.completed(claim("a"), 0)) == ["b", "c"]
    assert len(made) == 2
