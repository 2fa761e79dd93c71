"""Close an issue whose task has completed, as its tracker would. The stored record does not change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coordination.domain.issues.record import Issue
from coordination.domain.issues.rules import ENDED, TOMBSTONE

CLOSED = "closed"


def close_issue(issue: Issue, at: datetime) -> Issue:
    """Return *issue* as closed at that moment; unchanged if it has ended, or if its tracker changed it later."""
    if issue.status in ENDED or issue.status == TOMBSTONE or _changed_after(issue, at):
        return issue
    moment = at.astimezone(UTC)
    stamp = moment.isoformat().replace("+00:00", "Z")
    lines = issue.raw.split("\n")
    for index, line in enumerate(lines):
        record = json.loads(line)
        if _is_own(record, issue.id):
            record |= {"status": CLOSED, "closed_at": stamp, "updated_at": stamp}
            lines[index] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return replace(issue, raw="\n".join(lines), status=CLOSED, closed_at=moment)


def _is_own(record: dict[str, Any], issue_id: str) -> bool:
    return record.get("id") == issue_id and "title" in record


def _changed_after(issue: Issue, at: datetime) -> bool:
    """Return whether the tracker changed the issue later; reopening it then outweighs the completed task."""
    try:
        changed = datetime.fromisoformat(issue.record()["updated_at"])
    except (KeyError, TypeError, ValueError):
        return False
    return (changed.replace(tzinfo=UTC) if changed.tzinfo is None else changed) > at
