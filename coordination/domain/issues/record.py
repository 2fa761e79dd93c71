"""One issue as its tracker wrote it, with the fields that readiness needs. formats/beads reads and writes it."""

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
    """An edge: *issue_id* depends on, or is a child of, *depends_on_id*. Only four types affect readiness."""

    issue_id: str
    depends_on_id: str
    type: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Issue:
    """One issue. ``raw`` is the complete record; the other fields are parsed from it.

    ``raw`` is the issue's own JSON, unchanged. In files with separate lines for dependencies, labels, comments, a
    header or memories, the lines that belong to the issue (or only follow it) are further lines of ``raw``. The counts
    in exports are not read, because they are wrong in practice.
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
        """The issues that this one is a child of, in the order of the record."""
        return tuple(
            edge.depends_on_id for edge in self.dependencies if edge.type == PARENT_CHILD and edge.issue_id == self.id
        )

    @property
    def parent(self) -> str | None:
        """The first parent, which is the one that trackers show."""
        return next(iter(self.parents), None)

    def record(self) -> dict[str, Any]:
        """Return the issue's own JSON object with all its fields."""
        for line in self.raw.split("\n"):
            record = json.loads(line)
            if record.get("id") == self.id and "title" in record:
                return dict(record)
        return {}


def one_line(text: str) -> str:
    """Return *text* without line breaks and control characters: titles are untrusted and go to terminals."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
