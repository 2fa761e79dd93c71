"""Test workspaces and gates in a plan file: errors have their line."""

from __future__ import annotations

import pytest

from coordination.base.errors import PlanError
from coordination.domain.jobs.checkouts import Checkout, parse_checkout
from coordination.domain.jobs.preparation import Database, Preparation
from coordination.domain.plans import graph
from coordination.formats.plan import read_plan, write_plan
from tests.support.refusals import refuses


def with_task(*lines: str) -> str:
    """Return a plan whose task in line 3 has these fields, from line 5 on."""
    fields = "".join(f"    {line}\n" for line in lines)
    return f"version: 1\ntasks:\n  - key: a\n    run: {{shell: ls}}\n{fields}"


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (with_task("checkout: worktree"), 5, "tasks.a.checkout"),
        (with_task("checkout:", "  kind: git-worktree", "  bass: main"), 7, "tasks.a.checkout.bass"),
        (with_task("checkout:", "  kind: git-worktree", "  keep_failed: soon"), 7, "tasks.a.checkout.keep_failed"),
        (with_task("checkout:", "  kind: git-worktree", "  base: on"), 7, "tasks.a.checkout.base"),
        (with_task("checkout: {base: main}"), 5, "tasks.a.checkout"),
        (with_task("checkout: [folder]"), 5, "tasks.a.checkout"),
        (with_task("gates: 5"), 5, "tasks.a.gates"),
        (with_task("gates: [5]"), 5, "tasks.a.gates"),
        (with_task("gates:", "  - make", "  - {run: make, timeout: soon}"), 7, "tasks.a.gates[1].timeout"),
        (with_task("gates: [{timeout: 5m}]"), 5, "tasks.a.gates"),
        (with_task("gates: [{run: make, if: always}]"), 5, "tasks.a.gates[0].if"),
        (
            with_task("checkout: {kind: git-worktree, base: a}")
            + "  - {key: c, run: {shell: ls}, checkout: {kind: git-worktree, base: b}}\n",
            6,
            "tasks.c.checkout.base",
        ),
    ],
)
def test_the_sentence_names_line_and_remedy(text: str, line: int, field: str | None) -> None:
    with refuses(PlanError, field=field, line=line):
        graph.check_plan(read_plan(text.encode(), source="plan.yaml"))


@pytest.mark.parametrize(
    ("head", "field"),
    [
        ("defaults: {checkout: tree}", "defaults.checkout"),
        ("gates: [7]", "gates"),
        ("gates: {run: make}", "gates"),
    ],
)
def test_so_does_the_one_for_the_whole_plan(head: str, field: str | None) -> None:
    with refuses(PlanError, field=field, line=2):
        read_plan(f"version: 1\n{head}\ntasks: [{{key: a, run: {{shell: ls}}}}]\n".encode(), source="plan.yaml")


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        (with_task("workspace: git-worktree"), 5, "tasks.a.workspace"),
        ("version: 1\ndefaults: {workspace: folder}\ntasks: [{key: a, run: {shell: ls}}]\n", 2, "defaults.workspace"),
    ],
)
def test_the_key_workspace_is_refused_with_the_name_that_is_meant(text: str, line: int, field: str) -> None:
    with refuses(PlanError, field=field, line=line):
        read_plan(text.encode(), source="plan.yaml")


READY = "setup: uv sync, lock: [uv.lock], copy: [.env, conf/local], share: [.venv], ports: 3"


class TestPreparation:
    def test_all_keys_are_read_and_written(self) -> None:
        written = "kind: git-worktree, database: {clone: 'sqlite:///dev.db', variable: DB}, " + READY

        plan = read_plan(with_task(f"checkout: {{{written}}}").encode(), source="plan.yaml")

        checkout = plan.tasks[0].checkout
        assert isinstance(checkout, Checkout)
        assert checkout.prepare == Preparation(
            "uv sync", ("uv.lock",), (".env", "conf/local"), (".venv",), 3, Database("sqlite:///dev.db", "DB")
        )
        assert parse_checkout(checkout.to_json()) == checkout
        assert read_plan(write_plan(plan).encode(), source="plan.yaml").tasks[0].checkout == checkout

    @pytest.mark.parametrize(
        ("keys", "field"),
        [
            ("setup: ''", "setup"),
            ("setup: 5", "setup"),
            ("copy: .env", "copy"),
            ("copy: [../secrets]", "copy"),
            ("copy: [/etc/passwd]", "copy"),
            ("copy: ['.']", "copy"),
            ("copy: [.git/config]", "copy"),
            ("share: [.venv]", "share"),
            ("lock: [uv.lock]", "lock"),
            ("setup: make, copy: [a], share: [a/b]", "share"),
            ("ports: 101", "ports"),
            ("ports: -1", "ports"),
            ("database: {}", "database.clone"),
            ("database: {clone: 'mysql://u:geheim@h/x'}", "database.clone"),
            ("database: {clone: 'sqlite://'}", "database.clone"),
            ("database: {clone: 'postgresql://u:geheim@h/'}", "database.clone"),
            ("database: {clone: 'sqlite:///x', variable: 'a b'}", "database.variable"),
            ("database: {klone: x}", "database.klone"),
        ],
    )
    def test_what_cannot_be_is_refused_with_its_place_and_without_a_password(self, keys: str, field: str) -> None:
        text = with_task(f"checkout: {{kind: git-worktree, {keys}}}")

        with refuses(PlanError, field=f"tasks.a.checkout.{field}", line=5) as refusal:
            read_plan(text.encode(), source="plan.yaml")

        assert "geheim" not in str(refusal.value)

    def test_a_folder_is_not_prepared(self) -> None:
        with refuses(PlanError, field="tasks.a.checkout", line=5):
            read_plan(with_task("checkout: {kind: folder, setup: make}").encode(), source="plan.yaml")
