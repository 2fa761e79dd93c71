"""An issue whose job has completed, as its tracker would have closed it: derived, while the stored record stays."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coordination.domain.issues.record import Issue
from coordination.domain.issues.rules import ENDED, TOMBSTONE

CLOSED = "closed"


def completed(issue: Issue, at: datetime) -> Issue:
    """*issue* as closed at that moment.

    Unchanged where it has ended already, and where its tracker changed it after that moment: somebody who opens an
    issue again knows better than a job that was done with it.
    """
    if issue.status in ENDED or issue.status == TOMBSTONE or _changed_after(issue, at):
        return issue
    moment = at.astimezone(UTC)
    stamp = moment.isoformat().replace("+00:00", "Z")
    lines = issue.raw.split("\n")
    for place, line in enumerate(lines):
        record = json.loads(line)
        if _is_own(record, issue.id):
            record |= {"status": CLOSED, "closed_at": stamp, "updated_at": stamp}
            lines[place] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return replace(issue, raw="\n".join(lines), status=CLOSED, closed_at=moment)


def _is_own(record: dict[str, Any], issue_id: str) -> bool:
    return record.get("id") == issue_id and "title" in record


def _changed_after(issue: Issue, at: datetime) -> bool:
    value = issue.record().get("updated_at")
    try:
        changed = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return False
    if changed is None:
        return False
    return (changed.replace(tzinfo=UTC) if changed.tzinfo is None else changed) > at
