"""Workspaces and gates in a plan file: what is wrong with them is said with its line."""

from __future__ import annotations

import pytest

from coordination.domain import graph
from coordination.errors import PlanError
from coordination.formats.plan import read_plan


def with_task(*lines: str) -> str:
    """A plan whose task in line 3 has these fields, from line 5 on."""
    fields = "".join(f"    {line}\n" for line in lines)
    return f"version: 1\ntasks:\n  - key: a\n    run: {{shell: ls}}\n{fields}"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (with_task("workspace: worktree"), 5, "Did you mean 'git-worktree'?"),
        (with_task("workspace:", "  kind: git-worktree", "  bass: main"), 7, "Did you mean 'base'?"),
        (with_task("workspace:", "  kind: git-worktree", "  keep_failed: soon"), 7, "is not a duration"),
        (with_task("workspace:", "  kind: git-worktree", "  base: on"), 7, "write it in quotes"),
        (with_task("workspace: {base: main}"), 5, "must be folder or git-worktree"),
        (with_task("workspace: [folder]"), 5, "workspace must be a kind or a mapping"),
        (with_task("gates: 5"), 5, "gates must be a command or a list of commands"),
        (with_task("gates: [5]"), 5, "gates must hold commands"),
        (with_task("gates:", "  - make", "  - {run: make, timeout: soon}"), 7, "is not a duration"),
        (with_task("gates: [{timeout: 5m}]"), 5, "A gate needs a command"),
        (with_task("gates: [{run: make, if: always}]"), 5, "the key 'if' is unknown"),
        (
            with_task("workspace: {kind: git-worktree, base: a}")
            + "  - {key: c, run: {shell: ls}, workspace: {kind: git-worktree, base: b}}\n",
            6,
            "cannot begin at both 'a' and 'b'",
        ),
    ],
)
def test_the_sentence_names_line_and_remedy(text: str, line: int, says: str) -> None:
    with pytest.raises(PlanError) as refused:
        graph.check(read_plan(text.encode(), source="plan.yaml"))

    assert says in refused.value.sentence()
    assert refused.value.line == line


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("defaults: {workspace: tree}", "defaults: "),
        ("gates: [7]", "gates must hold commands"),
        ("gates: {run: make}", "gates must be a command or a list"),
    ],
)
def test_so_does_the_one_for_the_whole_plan(head: str, says: str) -> None:
    with pytest.raises(PlanError, match=says) as refused:
        read_plan(f"version: 1\n{head}\ntasks: [{{key: a, run: {{shell: ls}}}}]\n".encode(), source="plan.yaml")

    assert refused.value.line == 2
