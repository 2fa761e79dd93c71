"""YAML (and so JSON) as plain values with the line each was written on. Knows nothing of plans.

Built from the parser's events without recursion, so that no nesting, alias or size can hurt. A plain word that YAML
1.1 and 1.2 read differently (``on``, ``12:30``, ``010``, a date) becomes an Unquoted: the reader decides or refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from coordination.base.errors import PlanError
from coordination.base.json_values import MAX_DEPTH
from coordination.base.value_types import Unquoted
from coordination.base.wording import excerpt
from coordination.formats.plan.scalars import plain_value

MAX_BYTES = 10_000_000
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_STR_TAG = "tag:yaml.org,2002:str"
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass(slots=True)
class Document:
    """The root value, and the line of every key of a mapping and every item of a sequence."""

    source: str
    root: Any = None
    root_line: int = 1
    lines: dict[int, Any] = field(default_factory=dict)  # id of a container -> its keys' or items' lines

    def line_of(self, container: dict[str, Any] | list[Any], at: str | int) -> int | None:
        """Where the key *at* of a mapping, or the item *at* of a sequence, was written."""
        lines = self.lines.get(id(container))
        if isinstance(lines, dict):
            found = lines.get(at)
        elif isinstance(lines, list) and isinstance(at, int):
            found = lines[at]
        else:
            found = None
        return found if isinstance(found, int) else None

    def line_at(self, container: dict[str, Any] | list[Any], place: str) -> int | None:
        """Return the line of what *place* (``run.args[1]``) names in *container*, or of the nearest that is written."""
        value: Any = container
        line = None
        while place and isinstance(value, dict | list):
            at: Any
            if isinstance(value, dict):
                at = max((key for key in value if re.match(rf"{re.escape(key)}(\W|$)", place)), key=len, default=None)
                if at is None:  # a field that is missing
                    return line if value is container else self.line_of(value, next(iter(value), "")) or line
                place = place[len(at) :].removeprefix(".")
            else:
                item = re.match(r"\[(\d{1,9})\]\.?", place)
                if item is None or int(item[1]) >= len(value):
                    return line
                at, place = int(item[1]), place[item.end() :]
            line, value = self.line_of(value, at) or line, value[at]
        return (self._first_unclear(value) if isinstance(value, dict | list) else None) or line

    def _first_unclear(self, value: Any) -> int | None:
        """Return the line of the first word in a list or mapping that only quotes would make clear."""
        stack, seen = [value], {id(value)}
        while stack:
            container = stack.pop()
            for at, item in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(item, Unquoted):
                    return self.line_of(container, at)
                if isinstance(item, dict | list) and id(item) not in seen:
                    seen.add(id(item))
                    stack.append(item)
        return None

    def error(
        self, message: str, line: int | None = None, *, hint: str | None = None, field: str | None = None
    ) -> PlanError:
        return PlanError(message, source=self.source, line=line, hint=hint, field=field)


def read_document(data: bytes, *, source: str) -> Document:
    """The one document in *data*; PlanError, with file and line, for everything that is not one."""
    document = Document(source)
    text = _decoded(data, document)
    try:
        _Builder(document).read(_events(text))
    except yaml.YAMLError as error:
        raise _explained(error, text, document) from None
    return document


def _decoded(data: bytes, document: Document) -> str:
    if len(data) > MAX_BYTES:
        raise document.error(
            f"The file has {len(data):,} bytes; at most {MAX_BYTES:,} are possible",
            hint="Put data into files that the jobs read, or submit the plan in parts",
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise document.error("The file is not UTF-8 but UTF-16", hint="Save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise document.error(
            f"The file is not UTF-8: byte 0x{data[error.start]:02x} cannot be read", line, hint="Save it as UTF-8"
        ) from None
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise document.error(f"The file holds the control character U+{ord(found.group()):04X}", line)
    return _json_as_yaml(text)


def _json_as_yaml(text: str) -> str:
    """What JSON allows and YAML does not: an emoji as two escapes, and (without libyaml) tabs between values."""
    if not text.lstrip().startswith("{") or ("\t" not in text and not _PAIR.search(text)):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text

    def join(found: re.Match[str]) -> str:
        before, high, low = found.groups()
        return before + chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))

    return _PAIR.sub(join, text.replace("\t", " "))


def _events(text: str) -> Iterator[Any]:
    # libyaml where it is built in: ten times faster.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Iterator[Any] = yaml.parse(text, Loader=loader)
    return events


class _Merge:
    """The key ``<<``: the mapping behind it fills what is not written here."""


_MERGE = _Merge()


@dataclass(slots=True)
class _OpenContainer:
    """A container that is being read: its value, the lines in it, the key that waits for its value, its size so far."""

    value: dict[str, Any] | list[Any]
    lines: Any
    anchor: str | None
    line: int
    size: int = 1
    key: str | _Merge | None = None
    key_line: int = 0
    merges: list[tuple[Any, int]] = field(default_factory=list)


class _Builder:
    """Puts the parser's events together; what is open is a list, so depth costs nothing and is limited."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.stack: list[_OpenContainer] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.expanded = 0
        self.begun = False

    def read(self, events: Iterator[Any]) -> None:
        steps = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._document,
        }
        for event in events:
            step = steps.get(type(event))
            if step is not None:
                step(event)

    def _document(self, event: Any) -> None:
        if self.begun:
            raise self.document.error("A second document begins; a plan is one", event.start_mark.line + 1)
        self.begun = True

    def _scalar(self, event: Any) -> None:
        text: str = event.value
        tag = event.tag
        value: Any = text
        if tag is None and event.implicit[0]:
            value = _MERGE if text == "<<" else plain_value(text)
        elif tag is not None and tag != _STR_TAG:
            self._refuse_tag(event)
        if event.anchor:
            self.anchors[event.anchor] = (value, len(text) + 1)
        self._put(value, len(text) + 1, event.start_mark.line + 1)

    def _start(self, event: Any) -> None:
        line = event.start_mark.line + 1
        self._refuse_tag(event)
        if len(self.stack) >= MAX_DEPTH:
            raise _too_deep(self.document, line)
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            raise self.document.error(
                "A key must be a text, not a list or a mapping",
                line,
                hint="Write texts that begin with { or [, such as templates, in quotes",
            )
        self.anchors.pop(event.anchor, None)
        mapping = type(event) is yaml.MappingStartEvent
        self.stack.append(_OpenContainer({} if mapping else [], {} if mapping else [], event.anchor, line))

    def _end(self, _event: Any) -> None:
        done = self.stack.pop()
        if done.merges:
            self._merge(done)
        self.document.lines[id(done.value)] = done.lines
        if done.anchor:
            self.anchors[done.anchor] = (done.value, done.size)
        self._put(done.value, done.size, done.line)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor not in self.anchors:
            inside = any(container.anchor == event.anchor for container in self.stack)
            why = "contains itself" if inside else "is not known here"
            raise self.document.error(f"The alias *{event.anchor[:60]} {why}", line)
        value, size = self.anchors[event.anchor]
        self.expanded += size
        if self.expanded > MAX_BYTES:
            raise self.document.error(f"The aliases stand for more than {MAX_BYTES:,} characters in all", line)
        self._put(value, size, line)

    def _put(self, value: Any, size: int, line: int) -> None:
        if not self.stack:
            self.document.root, self.document.root_line = value, line
            return
        container = self.stack[-1]
        container.size += size
        into = container.value
        if isinstance(into, dict):
            key = container.key
            if key is None:
                self._begin_pair(container, value, line)
                return
            container.key = None
            if isinstance(key, _Merge):
                container.merges.append((value, container.key_line))
            else:
                into[key] = value if value is not _MERGE else "<<"
                container.lines[key] = container.key_line
        else:
            into.append(value if value is not _MERGE else "<<")
            container.lines.append(line)

    def _begin_pair(self, container: _OpenContainer, key: Any, line: int) -> None:
        refuse = self.document.error
        if isinstance(key, Unquoted):
            raise refuse(f"The key {key.text} may be read as {key.reading}", line, hint=f'Write "{key.text}"')
        if not isinstance(key, str | _Merge):
            raise refuse(f"The key {excerpt(key)} is not a text", line, hint="Write it in quotes")
        if key in container.lines:
            raise refuse(f"The key {excerpt(key)} is written twice, first in line {container.lines[key]}", line)
        container.key, container.key_line = key, line

    def _merge(self, done: _OpenContainer) -> None:
        for value, line in done.merges:
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    raise self.document.error("<< must be followed by a mapping or a list of mappings", line)
                for key, item in source.items():
                    if key not in done.lines:
                        done.value[key] = item
                        done.lines[key] = line

    def _refuse_tag(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            line = event.start_mark.line + 1
            raise self.document.error(f"The tag {excerpt(event.tag)} has no place in a plan", line)


def _explained(error: yaml.YAMLError, text: str, document: Document) -> PlanError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    if mark is not None:
        lines = text.splitlines()
        written = lines[mark.line] if mark.line < len(lines) else ""
        indent = written[: len(written) - len(written.lstrip())]
        if "\t" in indent:
            return document.error("A tab stands in the indentation, where YAML has only spaces", line)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    if "nesting depth" in problem:  # libyaml's own limit, which its look ahead may reach before an event tells of ours
        return _too_deep(document, line)
    context = getattr(error, "context", None)
    hint = next((hint for sign, hint in _HINTS.items() if sign in problem), None)
    return document.error(f"This is not YAML: {f'{context}, ' if context else ''}{problem}", line, hint=hint)


def _too_deep(document: Document, line: int | None) -> PlanError:
    return document.error(f"Values are nested deeper than {MAX_DEPTH} levels", line)


_IN_QUOTES = "Write a text that holds such signs in quotes"
_HINTS = {
    "mapping values are not allowed": "Write a text that holds a colon and a space in quotes",
    "cannot start any token": _IN_QUOTES,
    "did not find expected": "Look at the indentation, and for quotes or brackets that are not closed, above this line",
}
