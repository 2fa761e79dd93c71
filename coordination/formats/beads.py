"""Beads' issues.jsonl, in every dialect met so far, to issues and back without loss. Pure: bytes in, bytes out.

One JSON object per line, in any order. Beside issues a file may hold a header (``_schema``), memories (``_type``), and,
in dumps of its tables, dependencies, labels and comments on lines of their own: these go to the issue that they
name, everything else that is no issue stays behind the issue it was found behind. What is written is what was read,
line by line, except line ends, blank lines and a byte order mark.

What has no meaning is passed over, and noted with its line: a dependency that names nothing or its own issue. One
without a type holds like ``blocks``, the strictest. Everything else that cannot be understood refuses the whole file,
since to drop it could make work ready that is not, or lose it in an export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NoReturn

from coordination.base.errors import FormatError, Refused
from coordination.base.wording import excerpt
from coordination.domain.issues.record import BLOCKS, CONDITIONAL_BLOCKS, PARENT_CHILD, Issue, IssueDependency
from coordination.formats import jsonl
from coordination.formats.jsonl import shown

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_HINT = "Nothing was taken from the file; repair or remove the line"

MOST_BYTES = 16_000_000
"""Of one line."""

_NOT_ON_ITSELF = frozenset({BLOCKS, CONDITIONAL_BLOCKS, PARENT_CHILD})
_DEPENDENCY = frozenset({"issue_id", "depends_on_id"})
_DELETION = frozenset({"id", "ts", "by"})


def read_issues(
    data: bytes | Iterable[bytes], *, source: str | None = None, note: Callable[[str], None] | None = None
) -> list[Issue]:
    """Every issue of a file (its bytes, or its lines), in its order. FormatError names file and line.

    *note* gets a sentence, with file and line, for each dependency that is not taken as it stands.
    """
    reader = _IssueReader(source, note)
    for number, line in enumerate(data.split(b"\n") if isinstance(data, bytes) else data, start=1):
        reader.take(number, line)
    return reader.issues()


def write_issues(issues: Iterable[Issue]) -> Iterator[bytes]:
    """The lines of a file that reads back as these issues."""
    for issue in issues:
        for line in issue.raw.split("\n"):
            yield line.encode() + b"\n"


@dataclass(slots=True)
class _Draft:
    """An issue and the lines that turned out to belong to it."""

    issue: Issue
    before: list[str]
    behind: list[str] = field(default_factory=list)
    dependencies: list[IssueDependency] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def finished(self) -> Issue:
        if not (self.before or self.behind):
            return self.issue
        return replace(
            self.issue,
            raw="\n".join([*self.before, self.issue.raw, *self.behind]),
            dependencies=(*self.issue.dependencies, *self.dependencies),
            labels=(*self.issue.labels, *self.labels),
        )


class _IssueReader:
    """What was read so far of one file."""

    def __init__(self, source: str | None, note: Callable[[str], None] | None) -> None:
        self.source = source
        self._note = note
        self.drafts: dict[str, _Draft] = {}
        self.lines: dict[str, int] = {}
        self.loose: list[str] = []  # before the first issue
        self.early: list[tuple[str, Mapping[str, Any], str]] = []  # name issues that may still come
        self.last: _Draft | None = None

    def issues(self) -> list[Issue]:
        for issue_id, record, text in self.early:
            self._attach(self.drafts.get(issue_id), record, text)
        return [draft.finished() for draft in self.drafts.values()]

    def take(self, number: int, line: bytes) -> None:
        if len(line) > MOST_BYTES:
            self._refuse(number, f"the line is longer than {MOST_BYTES:,} bytes")
        try:
            found = jsonl.parsed(number, line)
        except Refused as refused:
            self._refuse(number, refused.message)
        if found is None:
            return
        text, record = found
        if "_schema" in record or record.get("_type", "issue") != "issue":
            self._keep(text)
        elif "issue_id" in record and "title" not in record:
            self._satellite(number, record, text)
        else:
            self._issue(number, record, text)

    def _issue(self, number: int, record: Mapping[str, Any], text: str) -> None:
        if "title" not in record and record.keys() >= _DELETION:
            self._refuse(number, f"this is the record of a deletion ({shown(record['id'])}), not an issue")
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
            # called wisp for a few versions
            ephemeral=self._flag(number, record, "ephemeral") or record.get("wisp") is True,
            dependencies=tuple(
                edge
                for one in self._list(number, record, "dependencies")
                if (edge := self._dependency(number, one, issue_id)) is not None
            ),
        )
        self.drafts[issue_id] = self.last = _Draft(issue, before=self.loose)
        self.lines[issue_id] = number
        self.loose = []

    def _satellite(self, number: int, record: Mapping[str, Any], text: str) -> None:
        """A dependency, label or comment on its own line."""
        issue_id = self._text(number, record, "issue_id") or ""
        if record.keys() >= _DEPENDENCY:
            self._dependency(number, record, issue_id)
        elif "label" in record:
            if not self._text(number, record, "label"):
                self._refuse(number, "the label is empty", field="label")
        elif "text" not in record:
            self._refuse(number, f"neither an issue nor a dependency, label or comment: {shown(record)}")
        # the issue may come later, or be in another file: then the line says nothing here, and is kept
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
        """An edge, or None for one that says nothing. *number* None: of a line that was judged before."""
        if not isinstance(edge, dict):
            self._refuse(number, f"a dependency is a JSON object, not {shown(edge)}", field="dependencies")
        source = self._text(number, edge, "issue_id") or issue_id
        target = self._text(number, edge, "depends_on_id")
        kind = self._text(number, edge, "type")
        if not target or not target.strip():
            self._say(number, f"a dependency of {excerpt(source)} names no issue, and was left out")
            return None
        if target == source and (kind or BLOCKS) in _NOT_ON_ITSELF:
            self._say(number, f"{excerpt(source)} depends on itself, and that dependency was left out")
            return None
        if not kind:
            self._say(
                number, f"the dependency of {excerpt(source)} on {excerpt(target)} has no type: it counts as blocks"
            )
        metadata = edge.get("metadata")
        if isinstance(metadata, str):  # exports write the object as a text
            try:
                metadata = jsonl.decoded(metadata)
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
            self._refuse(number, f"{name} must be a text, not {shown(value)}", field=name)
        return value

    def _flag(self, number: int, record: Mapping[str, Any], name: str) -> bool:
        value = record.get(name)
        if value is not None and value not in (0, 1):  # table dumps write numbers; False and True are equal to them
            self._refuse(number, f"{name} must be true or false, not {shown(value)}", field=name)
        return bool(value)

    def _priority(self, number: int, record: Mapping[str, Any]) -> int:
        """A missing one is 0, critical: that is how its own reader takes it."""
        value = record.get("priority")
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(number, f"priority must be a whole number, not {shown(value)}", field="priority")
        return value

    def _list(self, number: int, record: Mapping[str, Any], name: str) -> list[Any]:
        value = record.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(number, f"{name} must be a list, not {shown(value)}", field=name)
        return value

    def _labels(self, number: int, record: Mapping[str, Any]) -> tuple[str, ...]:
        labels = self._list(number, record, "labels")
        for label in labels:
            if not isinstance(label, str):
                self._refuse(number, f"a label must be a text, not {shown(label)}", field="labels")
        return tuple(labels)

    def _moment(self, number: int, record: Mapping[str, Any], name: str) -> datetime | None:
        """In UTC, to the microsecond (the text in ``raw`` has the rest). Without an offset it is taken for UTC."""
        value = self._text(number, record, name)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self._refuse(number, f"{name} must be a time like 2026-02-28T03:48:46Z, not {shown(value)}", field=name)
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        try:
            return moment.astimezone(UTC)
        except OverflowError:  # the zero time of other languages, east of Greenwich
            return _EARLIEST if moment.year == _EARLIEST.year else _LATEST

    def _say(self, number: int | None, what: str) -> None:
        if self._note is not None and number is not None:
            self._note(f"{self.source or 'the file'}:{number}: {what}.")

    def _refuse(self, number: int | None, why: str, *, field: str | None = None) -> NoReturn:
        raise FormatError(why, source=self.source, line=number, hint=_HINT, field=field)
