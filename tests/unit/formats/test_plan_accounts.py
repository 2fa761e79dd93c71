"""Test accounts in plan files: of agents and chats, and the default."""

from __future__ import annotations

import pytest

from coordination.base.errors import PlanError
from coordination.formats.plan import read_plan, write_plan
from tests.support.refusals import refuses

PLAN = """
version: 1
defaults: {account: claude@work}
tasks:
  - {key: a, run: {agent: claude, prompt: x, account: claude@max2}}
  - {key: b, run: {chat: "openai:m", prompt: x, account: "on"}}
  - {key: c, run: {agent: claude, prompt: x}}
"""


def test_they_are_read_and_read_back_equal() -> None:
    plan = read_plan(PLAN.encode(), source="plan.yaml")

    assert plan.defaults.account == "claude@work"
    assert [task.run.account for task in plan.tasks] == ["claude@max2", "on", None]
    again = read_plan(write_plan(plan).encode(), source="plan.yaml")
    assert (again.defaults, [task.run for task in again.tasks]) == (plan.defaults, [task.run for task in plan.tasks])


@pytest.mark.parametrize("account", ["no/name", "codex@work", "'{{ needs.b.output }}'"])
def test_what_names_none_is_refused_with_its_line(account: str) -> None:
    with refuses(PlanError, field="tasks.a.run.account", line=5):
        read_plan(PLAN.replace("claude@max2", account).encode(), source="plan.yaml")
