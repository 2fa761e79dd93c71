"""A plan with one task per open issue of a tracker, in the order of their dependencies."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.issues.order import ExcludedIssue, no_work, work_order
from coordination.domain.issues.readiness import IssueReadiness, sort_issues
from coordination.domain.issues.record import Issue, one_line
from coordination.domain.issues.rules import RuleSet
from coordination.domain.jobs import templates
from coordination.domain.plans.plans import MAX_KEY, MAX_TITLE, Plan, Task

ISSUE_ID = "COORD_ISSUE_ID"
ISSUE_TITLE = "COORD_ISSUE_TITLE"

_TEXTS = ("description", "design", "acceptance_criteria", "notes", "spec_id", "external_ref", "due_at")
_BAD_IN_KEY = re.compile(r"[^A-Za-z0-9._/:-]")
_DIGEST = 10
_MOST_URGENT = 4  # the plan's priority of a critical issue: Beads counts 0 (critical) to 4, plans the other way round
_FARTHEST = 1000


def shell_job(command: str, env: Mapping[str, str] | None = None) -> Callable[[Issue], Mapping[str, Any]]:
    """Return a function for plan_from_issues that runs *command* for each issue, which its environment names.

    A title that looks like a template is passed through a template, never as one: titles are untrusted.
    """

    def job(issue: Issue) -> Mapping[str, Any]:
        return {
            "shell": command,
            "env": {**(env or {}), ISSUE_ID: _literal(issue.id, "id"), ISSUE_TITLE: _literal(issue.title, "title")},
        }

    return job


def plan_from_issues(
    issues: Sequence[Issue], *, rules: str | RuleSet, now: datetime, run_for: Callable[[Issue], Mapping[str, Any]]
) -> tuple[Plan, list[ExcludedIssue]]:
    """Return a plan of the open issues that are work, most urgent first, and the excluded issues.

    A task needs the tasks of all issues that block its issue, directly or through parents. Where a gate waits for any
    one child, the task waits for every child in the plan. Raises Refused when no issue is left.
    """
    readiness = IssueReadiness(issues, rules, now)
    open_ = sort_issues(issue for issue in readiness.issues.values() if issue.status == "open")
    work = {issue.id: issue for issue in open_ if readiness.is_work(issue)}
    edges, blocked = work_order(readiness, work)
    excluded = {issue.id: no_work(readiness, issue) for issue in open_ if issue.id not in work} | blocked
    if not edges:
        raise Refused("None of these issues is ready for a task", hint="See why: coord explain ISSUE")
    tasks = [
        Task(
            key=key_of(issue_id),
            run=run_for(work[issue_id]),
            title=_title(work[issue_id]),
            needs=[key_of(blocker) for blocker in edges[issue_id]],
            input={"issue": _essentials(work[issue_id])},
            priority=max(-_FARTHEST, min(_FARTHEST, _MOST_URGENT - work[issue_id].priority)),
            metadata={"issue": issue_id},
        )
        for issue_id in edges
    ]
    return Plan(tasks=tasks), [excluded[issue.id] for issue in open_ if issue.id in excluded]


def key_of(issue_id: str) -> str:
    """Return the key of the issue's task: its id, or a valid key with a digest where the id is none."""
    if len(issue_id) <= MAX_KEY and not issue_id.startswith("-") and not _BAD_IN_KEY.search(issue_id):
        return issue_id
    digest = hashlib.sha256(issue_id.encode()).hexdigest()[:_DIGEST]
    return f"{_BAD_IN_KEY.sub('_', issue_id).lstrip('-')[: MAX_KEY - _DIGEST - 1]}:{digest}"


def _essentials(issue: Issue) -> dict[str, Any]:
    """Return the issue's fields for the input of its task; the rest stays in the tracker."""
    record = issue.record()
    return {
        "id": issue.id,
        "title": issue.title,
        **{name: value for name in _TEXTS if isinstance(value := record.get(name), str) and value},
        "status": issue.status,
        "priority": issue.priority,
        "issue_type": issue.issue_type,
        "assignee": issue.assignee,
        "labels": list(issue.labels),
        "parent": issue.parent,
    }


def _title(issue: Issue) -> str:
    """Return one line of at most MAX_TITLE characters; the whole title is in the task's input."""
    line = one_line(issue.title)
    if not line:
        return key_of(issue.id)
    return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + "…"


def _literal(text: str, name: str) -> str:
    return "{{ input.issue." + name + " }}" if templates.is_template(text) else text
