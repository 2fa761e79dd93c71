"""Parser of YAML, and so JSON, into plain values with their lines. Independent of plans.

It processes the parser's events without recursion and with limits, so that nesting, aliases and sizes cannot exhaust
memory. Plain words that YAML 1.1 and 1.2 read differently (``on``, ``12:30``, ``010``, dates) become Unquoted, which
the reader accepts or refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from coordination.base.errors import PlanError
from coordination.base.fields import Unquoted
from coordination.base.json_values import MAX_DEPTH
from coordination.base.wording import excerpt
from coordination.formats.plan.scalars import plain_value

MAX_BYTES = 10_000_000
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_STR_TAG = "tag:yaml.org,2002:str"
_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


@dataclass(slots=True)
class Document:
    """The root value, and the lines of all keys of mappings and items of sequences."""

    source: str
    root: Any = None
    root_line: int = 1
    lines: dict[int, Any] = field(default_factory=dict)  # id of a container -> its keys' or items' lines

    def line_of(self, container: dict[str, Any] | list[Any], at: str | int) -> int | None:
        """Return the line of the key *at* of a mapping, or of the item *at* of a sequence."""
        lines = self.lines.get(id(container))
        if isinstance(lines, dict):
            return lines.get(at)
        return lines[at] if isinstance(lines, list) and isinstance(at, int) else None

    def line_at(self, container: dict[str, Any] | list[Any], place: str) -> int | None:
        """Return the line of *place* (``run.args[1]``) in *container*, or of the nearest part that is in the file."""
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
        return (self._first_ambiguous(value) if isinstance(value, dict | list) else None) or line

    def _first_ambiguous(self, value: Any) -> int | None:
        """Return the line of the first ambiguous word in a list or mapping, or None."""
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
    """Parse the one document in *data*. Raises PlanError with file and line."""
    document = Document(source)
    text = _decode(data, document)
    try:
        _Builder(document).read(_events(text))
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, document) from None
    return document


def _decode(data: bytes, document: Document) -> str:
    if len(data) > MAX_BYTES:
        message = f"The file has {len(data):,} bytes; at most {MAX_BYTES:,} are possible"
        raise document.error(message, hint="Move data into files that the jobs read, or submit the plan in parts")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise document.error("The file is UTF-16, not UTF-8", hint="Save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise document.error(
            f"The file is not UTF-8: byte 0x{data[error.start]:02x} cannot be read", line, hint="Save it as UTF-8"
        ) from None
    if match := _CONTROL.search(text):
        line = text.count("\n", 0, match.start()) + 1
        raise document.error(f"The file contains the control character U+{ord(match.group()):04X}", line)
    return _json_as_yaml(text)


def _json_as_yaml(text: str) -> str:
    """Rewrite what JSON allows and YAML does not: emoji as two escapes, and (without libyaml) tabs between values."""
    if not text.lstrip().startswith("{") or ("\t" not in text and not _PAIR.search(text)):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text

    def join(match: re.Match[str]) -> str:
        before, high, low = match.groups()
        return before + chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00))

    return _PAIR.sub(join, text.replace("\t", " "))


def _events(text: str) -> Iterator[Any]:
    # libyaml, where available, is ten times faster.
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Iterator[Any] = yaml.parse(text, Loader=loader)
    return events


class _Merge:
    """The key ``<<``: its value is a mapping with defaults."""


_MERGE = _Merge()


@dataclass(slots=True)
class _OpenContainer:
    """A container during parsing: its value, the lines in it, the key without a value yet, and its size so far."""

    value: dict[str, Any] | list[Any]
    lines: Any
    anchor: str | None
    line: int
    size: int = 1
    key: str | _Merge | None = None
    key_line: int = 0
    merges: list[tuple[Any, int]] = field(default_factory=list)


class _Builder:
    """Builds values from the parser's events, with a stack of open containers instead of recursion."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.stack: list[_OpenContainer] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.expanded = 0
        self.has_document = False

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
        if self.has_document:
            raise self.document.error("A plan must be a single document", event.start_mark.line + 1)
        self.has_document = True

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
            hint = "Write texts that begin with { or [, such as templates, in quotes"
            raise self.document.error("A key must be a text, not a list or a mapping", line, hint=hint)
        self.anchors.pop(event.anchor, None)
        mapping = type(event) is yaml.MappingStartEvent
        self.stack.append(_OpenContainer({} if mapping else [], {} if mapping else [], event.anchor, line))

    def _end(self, _event: Any) -> None:
        container = self.stack.pop()
        if container.merges:
            self._merge(container)
        self.document.lines[id(container.value)] = container.lines
        if container.anchor:
            self.anchors[container.anchor] = (container.value, container.size)
        self._put(container.value, container.size, container.line)

    def _alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor not in self.anchors:
            inside = any(container.anchor == event.anchor for container in self.stack)
            why = "contains itself" if inside else "is not defined here"
            raise self.document.error(f"The alias *{event.anchor[:60]} {why}", line)
        value, size = self.anchors[event.anchor]
        self.expanded += size
        if self.expanded > MAX_BYTES:
            raise self.document.error(f"The aliases expand to more than {MAX_BYTES:,} characters", line)
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
            raise refuse(f"The key {excerpt(key)} appears twice, first in line {container.lines[key]}", line)
        container.key, container.key_line = key, line

    def _merge(self, container: _OpenContainer) -> None:
        for value, line in container.merges:
            for source in value if isinstance(value, list) else [value]:
                if not isinstance(source, dict):
                    raise self.document.error("<< must be followed by a mapping or a list of mappings", line)
                for key, item in source.items():
                    if key not in container.lines:
                        container.value[key] = item
                        container.lines[key] = line

    def _refuse_tag(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            line = event.start_mark.line + 1
            raise self.document.error(f"The tag {excerpt(event.tag)} is not allowed in a plan", line)


def _syntax_error(error: yaml.YAMLError, text: str, document: Document) -> PlanError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else None
    if mark is not None:
        lines = text.splitlines()
        content = lines[mark.line] if mark.line < len(lines) else ""
        indent = content[: len(content) - len(content.lstrip())]
        if "\t" in indent:
            return document.error("The indentation contains a tab; YAML allows only spaces", line)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    if "nesting depth" in problem:  # libyaml's own limit; its lookahead may reach it before ours is checked
        return _too_deep(document, line)
    context = getattr(error, "context", None)
    hint = next((hint for sign, hint in _HINTS.items() if sign in problem), None)
    return document.error(f"This is not YAML: {f'{context}, ' if context else ''}{problem}", line, hint=hint)


def _too_deep(document: Document, line: int | None) -> PlanError:
    return document.error(f"Values are nested deeper than {MAX_DEPTH} levels", line)


_HINTS = {
    "mapping values are not allowed": "Write texts that contain a colon and a space in quotes",
    "cannot start any token": "Write texts that contain such characters in quotes",
    "did not find expected": "Check the indentation, and for missing closing quotes or brackets above this line",
}
