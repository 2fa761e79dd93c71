"""One issue as its tracker wrote it, with what readiness asks of it in fields. formats/beads reads and writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

BLOCKS = "blocks"
CONDITIONAL_BLOCKS = "conditional-blocks"
WAITS_FOR = "waits-for"
PARENT_CHILD = "parent-child"

EXTERNAL = "external:"


@dataclass(frozen=True, slots=True)
class IssueDependency:
    """One edge: *issue_id* depends on (or is a child of) *depends_on_id*. Any type is kept; four affect readiness."""

    issue_id: str
    depends_on_id: str
    type: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue. ``raw`` is the whole truth: every other field was read from it and may say less.

    ``raw`` is the issue's own JSON, letter for letter. In files where dependencies, labels, comments, a header or
    memories stand on lines of their own, those that belong to the issue (or just stand beside it) are further lines
    of ``raw``. The counts that exports carry are not read: real ones are wrong.
    """

    id: str
    title: str
    raw: str
    status: str = "open"
    priority: int = 0
    issue_type: str = "task"
    assignee: str | None = None
    labels: tuple[str, ...] = ()
    created_at: datetime | None = None
    closed_at: datetime | None = None
    close_reason: str | None = None
    defer_until: datetime | None = None
    pinned: bool = False
    ephemeral: bool = False
    dependencies: tuple[IssueDependency, ...] = ()

    @property
    def parents(self) -> tuple[str, ...]:
        """The issues this one is a child of, first written first."""
        return tuple(
            edge.depends_on_id for edge in self.dependencies if edge.type == PARENT_CHILD and edge.issue_id == self.id
        )

    @property
    def parent(self) -> str | None:
        """The first of them, which is the one that trackers show."""
        return next(iter(self.parents), None)

    def record(self) -> dict[str, Any]:
        """The issue's own JSON object, parsed, with every field that it came with."""
        for line in self.raw.split("\n"):
            record = json.loads(line)
            if record.get("id") == self.id and "title" in record:
                return dict(record)
        return {}


def one_line(text: str) -> str:
    """*text* without line breaks and control characters: titles come from strangers and go to terminals."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
