"""Test the syntax of workspaces and gates, and the names of branches."""

from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.base.ids import new_id
from coordination.domain.jobs.checkouts import (
    FOLDER,
    GATE_TIMEOUT,
    Checkout,
    CheckoutKind,
    Gate,
    HalfMerged,
    common_base,
    gates_for,
    parse_checkout,
    parse_gates,
    run_branch,
    slug,
    task_branch,
)
from tests.support.refusals import refuses

WORKTREE = Checkout(CheckoutKind.GIT_WORKTREE)
KEYS = st.from_regex(r"[\w./:][\w./:-]{0,199}", fullmatch=True)


class TestCheckouts:
    def test_a_kind_alone_is_one(self) -> None:
        assert parse_checkout("folder") == FOLDER
        assert parse_checkout("git-worktree") == WORKTREE

    @pytest.mark.parametrize(
        "checkout",
        [
            FOLDER,
            WORKTREE,
            Checkout(CheckoutKind.GIT_WORKTREE, base="release/1.2", keep_failed=timedelta(hours=36)),
            Checkout(CheckoutKind.GIT_WORKTREE, keep_failed=timedelta(0), merge=HalfMerged("a" * 40, "fix")),
        ],
    )
    def test_what_is_stored_reads_back_the_same(self, checkout: Checkout) -> None:
        assert parse_checkout(checkout.to_json()) == checkout

    @pytest.mark.parametrize(
        ("written", "field"),
        [
            ("worktree", "checkout"),
            (None, "checkout"),
            ({"base": "main"}, "checkout"),
            ({"kind": "git-worktree", "bass": "main"}, "checkout.bass"),
            ({"kind": "folder", "base": "main"}, "checkout"),
            ({"kind": "git-worktree", "base": "--exec=ls"}, "checkout.base"),
            ({"kind": "git-worktree", "base": "a b"}, "checkout.base"),
            ({"kind": "git-worktree", "base": 7}, "checkout.base"),
            ({"kind": "git-worktree", "keep_failed": "soon"}, None),
            ({"kind": "git-worktree", "merge": "main"}, "checkout.merge"),
            ({"kind": "git-worktree", "merge": {"commit": "main", "task": "a"}}, "checkout.merge.commit"),
        ],
    )
    def test_what_is_none_is_refused_in_one_sentence(self, written: object, field: str | None) -> None:
        with refuses(Refused, field=field):
            parse_checkout(written)

    def test_the_tasks_of_a_run_share_one_base(self) -> None:
        main, dev = (Checkout(CheckoutKind.GIT_WORKTREE, base=base) for base in ("main", "dev"))

        assert common_base([FOLDER, WORKTREE, main, main]) == "main"
        assert common_base([FOLDER, WORKTREE]) is None
        with refuses(Refused):
            common_base([main, WORKTREE, dev])


class TestGates:
    def test_a_command_a_list_and_mappings_are_gates(self) -> None:
        assert parse_gates("make") == (Gate("make"),)
        assert parse_gates(None) == ()
        assert parse_gates(["make", {"run": "pytest", "timeout": "1h", "name": "tests"}]) == (
            Gate("make", GATE_TIMEOUT),
            Gate("pytest", timedelta(hours=1), name="tests"),
        )

    def test_what_is_stored_reads_back_the_same(self) -> None:
        gates = (Gate("make"), Gate("make", timedelta(seconds=1.5)), Gate("make all\n", name="all of it"))

        assert parse_gates([gate.to_json() for gate in gates]) == gates

    @pytest.mark.parametrize(
        ("written", "field"),
        [
            (7, "gates"),
            ({"run": "make"}, "gates"),
            ([7], "gates"),
            ([" "], "gates"),
            ([{"run": 7}], "gates"),
            ([{"timeout": "1h"}], "gates"),
            ([{"run": "make", "timeout": 0}], "gates"),
            ([{"run": "make", "name": "a\nb"}], "gates"),
            ([{"run": "make", "when": "always"}], "gates"),
            (["nul\0"], "gates"),
            (["make"] * 51, "gates"),
        ],
    )
    def test_what_is_none_is_refused_in_one_sentence(self, written: object, field: str | None) -> None:
        with refuses(Refused, field=field):
            parse_gates(written)

    def test_those_of_project_and_plan_come_first_and_are_for_what_changes_something(self) -> None:
        def of(kind: str, checkout: Checkout) -> list[str]:
            gates = gates_for(
                kind, checkout, project=[Gate("a"), Gate("b")], plan=[Gate("b"), Gate("c")], task=[Gate("d")]
            )
            return [gate.run for gate in gates]

        assert of("shell", FOLDER) == ["d"]
        assert of("shell", WORKTREE) == ["a", "b", "c", "d"]
        assert of("agent", FOLDER) == ["a", "b", "c", "d"]


class TestNames:
    def test_a_plain_key_is_its_own_name(self) -> None:
        run_id = new_id()

        assert task_branch(run_id, "fix-login_2.1") == f"coord/{run_id[-12:]}/fix-login_2.1"
        assert run_branch(run_id) == f"coord/{run_id[-12:]}/run"

    @given(st.lists(KEYS, min_size=2, max_size=2, unique=True))
    @example(["run", "Run"])
    @example(["a/b", "a-b"])
    @example(["a/b", slug("a/b")])
    @example(["a:b", "a.b"])
    @example(["x.lock", "x"])
    @example(["é", "e"])
    def test_no_two_keys_share_a_name_and_none_is_the_runs(self, keys: list[str]) -> None:
        assert slug(keys[0]) != slug(keys[1])
        assert "run" not in {slug(key) for key in keys}

    @pytest.mark.parametrize("key", ["a", "run", "..", ".", "a..b", "x.lock", "a/b", "a:b", ".a", "é" * 200, "a" * 200])
    def test_git_takes_every_name(self, key: str) -> None:
        name = task_branch(new_id(), key)

        checked = subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, check=False)

        assert checked.returncode == 0
        assert "/" not in slug(key)
        assert len(slug(key)) < 80
