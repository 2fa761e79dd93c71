"""Lossless conversion between Beads' issues.jsonl, in all known dialects, and issues. Pure: bytes in, bytes out.

A file has one JSON object per line, in any order. Besides issues it may contain a header (``_schema``), memories
(``_type``), and, in dumps of tables, dependencies, labels and comments on lines of their own. These are stored with
their issue, other lines with the issue before them. The written lines equal the read ones, except for line ends, blank
lines and a byte order mark.

Dependencies without a target or on their own issue are ignored with a note. A dependency without a type counts as
``blocks``, the strictest. Anything else that is invalid refuses the whole file, because dropping it could make tasks
ready too early, or lose data in an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from coordination.base import json_values
from coordination.base.errors import FormatError, Refused
from coordination.base.json_values import show_value
from coordination.base.wording import excerpt
from coordination.domain.issues.record import BLOCKS, CONDITIONAL_BLOCKS, PARENT_CHILD, Issue, IssueDependency

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_HINT = "Nothing was imported; repair or remove the line"

MOST_BYTES = 16_000_000
"""The maximum of a line."""

_NOT_ON_ITSELF = frozenset({BLOCKS, CONDITIONAL_BLOCKS, PARENT_CHILD})
_DEPENDENCY = frozenset({"issue_id", "depends_on_id"})
_DELETION = frozenset({"id", "ts", "by"})


def read_issues(
    data: bytes | Iterable[bytes], *, source: str | None = None, note: Callable[[str], None] | None = None
) -> list[Issue]:
    """Return the issues of a file (its bytes, or its lines) in their order. Raises FormatError with file and line.

    *note* is called with a sentence, with file and line, for each dependency that is ignored or changed.
    """
    reader = _IssueReader(source, note)
    for number, line in enumerate(data.split(b"\n") if isinstance(data, bytes) else data, start=1):
        reader.read_line(number, line)
    return reader.issues()


def write_issues(issues: Iterable[Issue]) -> Iterator[bytes]:
    """Yield the lines of a file that reads back as these issues."""
    for issue in issues:
        for line in issue.raw.split("\n"):
            yield line.encode() + b"\n"


@dataclass(slots=True)
class _Draft:
    """An issue and the other lines that belong to it."""

    issue: Issue
    before: list[str]
    behind: list[str] = field(default_factory=list)
    dependencies: list[IssueDependency] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def build(self) -> Issue:
        if not (self.before or self.behind):
            return self.issue
        return replace(
            self.issue,
            raw="\n".join([*self.before, self.issue.raw, *self.behind]),
            dependencies=(*self.issue.dependencies, *self.dependencies),
            labels=(*self.issue.labels, *self.labels),
        )


class _IssueReader:
    """Reader of one file. It collects lines until all issues are known."""

    def __init__(self, source: str | None, note: Callable[[str], None] | None) -> None:
        self.source = source
        self._note = note
        self.drafts: dict[str, _Draft] = {}
        self.lines: dict[str, int] = {}
        self.loose: list[str] = []  # before the first issue
        self.early: list[tuple[str, Mapping[str, Any], str]] = []  # their issues may follow
        self.last: _Draft | None = None

    def issues(self) -> list[Issue]:
        for issue_id, record, text in self.early:
            self._attach(self.drafts.get(issue_id), record, text)
        return [draft.build() for draft in self.drafts.values()]

    def read_line(self, number: int, line: bytes) -> None:
        if len(line) > MOST_BYTES:
            self._refuse(number, f"the line is longer than {MOST_BYTES:,} bytes")
        try:
            parsed_line = json_values.parse_line(number, line)
        except Refused as refused:
            self._refuse(number, refused.message)
        if parsed_line is None:
            return
        text, record = parsed_line
        if "_schema" in record or record.get("_type", "issue") != "issue":
            self._keep(text)
        elif "issue_id" in record and "title" not in record:
            self._satellite(number, record, text)
        else:
            self._issue(number, record, text)

    def _issue(self, number: int, record: Mapping[str, Any], text: str) -> None:
        if "title" not in record and record.keys() >= _DELETION:
            self._refuse(number, f"this is the record of a deletion ({show_value(record['id'])}), not an issue")
        issue_id = self._text(number, record, "id")
        if not issue_id or not issue_id.strip():
            self._refuse(number, "the issue has no id", field="id")
        if issue_id in self.drafts:
            self._refuse(
                number, f"the id {excerpt(issue_id)} was already used in line {self.lines[issue_id]}", field="id"
            )
        title = self._text(number, record, "title")
        if title is None:
            self._refuse(number, f"the issue {excerpt(issue_id)} has no title", field="title")
        issue = Issue(
            id=issue_id,
            title=title,
            raw=text,
            status=self._text(number, record, "status") or "open",
            priority=self._priority(number, record),
            issue_type=self._text(number, record, "issue_type") or "task",
            assignee=self._text(number, record, "assignee") or None,
            labels=self._labels(number, record),
            created_at=self._moment(number, record, "created_at"),
            closed_at=self._moment(number, record, "closed_at"),
            close_reason=self._text(number, record, "close_reason") or None,
            defer_until=self._moment(number, record, "defer_until"),
            pinned=self._flag(number, record, "pinned"),
            # named wisp in a few versions
            ephemeral=self._flag(number, record, "ephemeral") or record.get("wisp") is True,
            dependencies=tuple(
                edge
                for value in self._list(number, record, "dependencies")
                if (edge := self._dependency(number, value, issue_id)) is not None
            ),
        )
        self.drafts[issue_id] = self.last = _Draft(issue, before=self.loose)
        self.lines[issue_id] = number
        self.loose = []

    def _satellite(self, number: int, record: Mapping[str, Any], text: str) -> None:
        """Read a dependency, label or comment on a line of its own."""
        issue_id = self._text(number, record, "issue_id") or ""
        if record.keys() >= _DEPENDENCY:
            self._dependency(number, record, issue_id)
        elif "label" in record:
            if not self._text(number, record, "label"):
                self._refuse(number, "the label is empty", field="label")
        elif "text" not in record:
            self._refuse(number, f"neither an issue nor a dependency, label or comment: {show_value(record)}")
        # The issue may follow, or be in another file; then the line is only kept.
        self.early.append((issue_id, record, text))

    def _attach(self, draft: _Draft | None, record: Mapping[str, Any], text: str) -> None:
        if draft is None:
            self._keep(text)
            return
        draft.behind.append(text)
        if record.keys() >= _DEPENDENCY:
            edge = self._dependency(None, record, draft.issue.id)
            draft.dependencies.extend([] if edge is None else [edge])
        elif "label" in record:
            draft.labels.append(record["label"])

    def _keep(self, text: str) -> None:
        (self.loose if self.last is None else self.last.behind).append(text)

    def _dependency(self, number: int | None, edge: object, issue_id: str) -> IssueDependency | None:
        """Return the dependency, or None if it is ignored. *number*: None for a line that was checked before."""
        if not isinstance(edge, dict):
            self._refuse(number, f"a dependency is a JSON object, not {show_value(edge)}", field="dependencies")
        source = self._text(number, edge, "issue_id") or issue_id
        target = self._text(number, edge, "depends_on_id")
        kind = self._text(number, edge, "type")
        if not target or not target.strip():
            self._add_note(number, f"a dependency of {excerpt(source)} has no target, and was ignored")
            return None
        if target == source and (kind or BLOCKS) in _NOT_ON_ITSELF:
            self._add_note(number, f"{excerpt(source)} depends on itself, and that dependency was ignored")
            return None
        if not kind:
            self._add_note(
                number, f"the dependency of {excerpt(source)} on {excerpt(target)} has no type: it counts as blocks"
            )
        metadata = edge.get("metadata")
        if isinstance(metadata, str):  # exports write the object as a text
            try:
                metadata = json_values.parse_json(metadata)
            except (ValueError, RecursionError):
                metadata = None
        return IssueDependency(
            issue_id=source,
            depends_on_id=target,
            type=kind or BLOCKS,
            metadata=metadata if isinstance(metadata, dict) else {},
        )

    def _text(self, number: int | None, record: Mapping[str, Any], name: str) -> str | None:
        value = record.get(name)
        if value is not None and not isinstance(value, str):
            self._refuse(number, f"{name} must be a text, not {show_value(value)}", field=name)
        return value

    def _flag(self, number: int, record: Mapping[str, Any], name: str) -> bool:
        value = record.get(name)
        if value is not None and value not in (0, 1):  # table dumps write numbers; False and True are equal to them
            self._refuse(number, f"{name} must be true or false, not {show_value(value)}", field=name)
        return bool(value)

    def _priority(self, number: int, record: Mapping[str, Any]) -> int:
        """Return the priority; a missing one is 0, critical, as in Beads."""
        value = record.get("priority")
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(number, f"priority must be a whole number, not {show_value(value)}", field="priority")
        return value

    def _list(self, number: int, record: Mapping[str, Any], name: str) -> list[Any]:
        value = record.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(number, f"{name} must be a list, not {show_value(value)}", field=name)
        return value

    def _labels(self, number: int, record: Mapping[str, Any]) -> tuple[str, ...]:
        labels = self._list(number, record, "labels")
        for label in labels:
            if not isinstance(label, str):
                self._refuse(number, f"a label must be a text, not {show_value(label)}", field="labels")
        return tuple(labels)

    def _moment(self, number: int, record: Mapping[str, Any], name: str) -> datetime | None:
        """Return a time in UTC, to the microsecond (``raw`` has the rest). A time without an offset is UTC."""
        value = self._text(number, record, name)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self._refuse(
                number, f"{name} must be a time like 2026-02-28T03:48:46Z, not {show_value(value)}", field=name
            )
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        try:
            return moment.astimezone(UTC)
        except OverflowError:  # the zero time of other languages, east of Greenwich
            return _EARLIEST if moment.year == _EARLIEST.year else _LATEST

    def _add_note(self, number: int | None, what: str) -> None:
        if self._note is not None and number is not None:
            self._note(f"{self.source or 'the file'}:{number}: {what}.")

    def _refuse(self, number: int | None, why: str, *, field: str | None = None) -> NoReturn:
        raise FormatError(why, source=self.source, line=number, hint=_HINT, field=field)
