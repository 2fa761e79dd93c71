"""Beads issues written in one line, and the plan that works them off."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from coordination.domain.issues.plan import plan_from_issues, shell_job
from coordination.domain.issues.readiness import ready
from coordination.domain.issues.record import Issue, IssueDependency
from coordination.domain.plans import graph

NOW = datetime(2027, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
NEW, OLD = "beads-1.0", "beads-0.47"
BOTH = pytest.mark.parametrize("rules", [NEW, OLD])


def issue(issue_id: str, *edges: tuple[str, str] | tuple[str, str, dict], **fields) -> Issue:
    """Return an open issue; an edge is (type, target) or (type, target, metadata)."""
    dependencies = tuple(
        IssueDependency(issue_id, edge[1], edge[0], edge[2] if len(edge) > 2 else {}) for edge in edges
    )
    title = fields.pop("title", f"Title of {issue_id}")
    return Issue(issue_id, title, json.dumps({"id": issue_id, "title": title}), dependencies=dependencies, **fields)


def ready_ids(rules: str, *issues: Issue) -> list[str]:
    return [result.id for result in ready(issues, rules, NOW)]


def planned(rules: str, *issues: Issue):
    plan, left = plan_from_issues(issues, rules=rules, now=NOW, run_for=shell_job("true"))
    graph.check_plan(plan)
    return {task.key: list(task.needs) for task in plan.tasks}, {out.id: out for out in left}
