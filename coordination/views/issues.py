"""JSON forms of imported issues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordination.domain.issues.record import Issue
    from coordination.flows.issues.import_issues import ImportedIssues


def issue(record: Issue) -> dict[str, Any]:
    """Return an issue."""
    return {
        "id": record.id,
        "title": record.title,
        "priority": record.priority,
        "type": record.issue_type,
        "assignee": record.assignee,
        "labels": list(record.labels),
    }


def ready_issues(records: Sequence[Issue], *, rules: str, now: datetime) -> dict[str, Any]:
    """Return the issues that are ready at *now* by these rules."""
    return {"rules": rules, "now": now, "ready": [issue(record) for record in records]}


def issue_import(record: ImportedIssues, notes: Sequence[str]) -> dict[str, Any]:
    """Return the result of an import of issues."""
    return {"project": record.project, "issues": record.issues, "replaced": record.replaced, "notes": notes}
