"""Hides the values of a job's secrets. Everything that a job says or leaves goes through here before it is stored.

``Control`` and the pipeline of attempts call it for all jobs, so what is added later needs no care of its own. A runner
calls it itself only where it shortens a text: half of a secret is not recognized any more.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus, unquote

from coordination.base import inherited_variables
from coordination.base.json_values import MAX_DEPTH
from coordination.domain.tasks.attempts import AttemptEnd, Usage

SHORTEST = 6
"""Characters. Shorter values, and shorter lines of a value, are shown: they stand in too many other words."""

_SECRETIVE = re.compile(r"(?i)(key|token|secret|passw|credential)")
_LONG_WORD = 16
_SHOWN = "***"
_PASSWORD = re.compile(r"\w+://[^\s/@:]*:(\S+)@")
_ESCAPED_LINE_END = re.compile(r"(?:\\r)?\\n")

Text = TypeVar("Text", str, bytes)


class Secrets:
    """Variables of the worker's environment that a job is given by name, and whose values nobody else is shown.

    *named*: those that the plan calls secrets, whatever their names look like. Of the others, those whose names look
    like a secret's are hidden.
    """

    def __init__(
        self, names: Iterable[str] = (), environ: Mapping[str, str] | None = None, *, named: Collection[str] = ()
    ) -> None:
        source = inherited_variables.original_environment() if environ is None else environ
        self.values = {name: source[name] for name in (*names, *named) if name in source}
        hidden = {value for name, value in self.values.items() if name in named or _SECRETIVE.search(name)}
        forms = {form for value in hidden for part in _parts(value) for form in _forms(part)}
        self._texts = sorted(forms)
        self._bytes = sorted({form.encode(errors="surrogateescape") for form in forms})

    def hide(self, value: Any) -> Any:
        """*value*, a text or any JSON value, with every secret in it replaced by ``***``.

        So is what lies deeper than what may be kept; the rest is still too deep, and is refused as it would be.
        """
        return self._hidden(value, 0) if self._texts else value

    def _hidden(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return _without(value, _spans(value, self._texts), _SHOWN)
        if depth > MAX_DEPTH:
            return _SHOWN
        if isinstance(value, Mapping):
            return {self._hidden(name, depth): self._hidden(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hidden(item, depth + 1) for item in value]
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        return _SHOWN if is_number and _spans(str(value), self._texts) else value

    def hide_in(self, result: AttemptEnd) -> AttemptEnd:
        """*result* with every text in it hidden."""
        if not self._texts:
            return result
        hide = self.hide
        return replace(
            result,
            output=hide(result.output),
            error=hide(result.error),
            log=hide(result.log),
            question=hide(result.question),
            budget_shortage=hide(result.budget_shortage),
            carry_over=hide(result.carry_over),
            usage=self.hide_usage(result.usage),
            discovered=tuple(replace(one, task=hide(one.task), role=hide(one.role)) for one in result.discovered),
            artifacts=tuple(replace(one, path=hide(one.path)) for one in result.artifacts),
        )

    def hide_usage(self, used: Iterable[Usage]) -> tuple[Usage, ...]:
        """The names in records of usage; their numbers stay."""
        if not self._texts:
            return tuple(used)
        hide = self.hide
        return tuple(
            replace(one, model=hide(one.model), id=hide(one.id), session_id=hide(one.session_id)) for one in used
        )

    def hiding(self, feed: Callable[[bytes], None]) -> Hiding:
        """*feed* for a stream that may hold secrets, in pieces cut anywhere."""
        return Hiding(feed, self._bytes)


NONE = Secrets(environ={})
"""Of a job that has none."""


class Hiding:
    """Passes a stream on without some values; what may be the beginning of one waits for what follows. Close it."""

    def __init__(self, feed: Callable[[bytes], None], values: Sequence[bytes]) -> None:
        """*values* are sorted."""
        self._feed = feed
        self._values = values
        self._longest = max(map(len, values), default=0)
        self._waiting = b""

    def __call__(self, data: bytes) -> None:
        """Take what came next."""
        if not self._values:
            self._feed(data)
            return
        data = self._waiting + data
        safe, spans = self._begins(data), _spans(data, self._values)
        for start, end in spans:
            if start < safe < end:
                safe = start  # a longer one, or one that begins inside it, may follow
        self._waiting = data[safe:]
        self._pass_on(data[:safe], [span for span in spans if span[1] <= safe])

    def close(self) -> None:
        """Nothing more comes."""
        data, self._waiting = self._waiting, b""
        self._pass_on(data, _spans(data, self._values))

    def _begins(self, data: bytes) -> int:
        """Where at the end of *data* a value may have begun."""
        for start in range(max(len(data) - self._longest + 1, 0), len(data)):
            end = data[start:]
            at = bisect_left(self._values, end)
            if at < len(self._values) and self._values[at] == end:
                at += 1
            if at < len(self._values) and self._values[at].startswith(end):
                return start
        return len(data)

    def _pass_on(self, data: bytes, spans: Sequence[tuple[int, int]]) -> None:
        if data:
            self._feed(_without(data, spans, _SHOWN.encode()))


def _spans(text: Text, forms: Sequence[Text]) -> list[tuple[int, int]]:
    """Where *forms* stand in *text*, from where to where, in order; those that overlap are one."""
    found: list[tuple[int, int]] = []
    for form in forms:
        at = text.find(form)
        while at >= 0:
            found.append((at, at + len(form)))
            at = text.find(form, at + 1)
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _without(text: Text, spans: Sequence[tuple[int, int]], shown: Text) -> Text:
    if not spans:
        return text
    begins = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(text)]
    return shown.join(text[begin:end] for begin, end in zip(begins, ends, strict=True))


def _parts(value: str) -> set[str]:
    """What of a value is hidden by itself: its lines, and what is known to be used alone."""
    lines = {line.strip() for line in value.splitlines()}
    lines |= {line.strip() for line in _ESCAPED_LINE_END.split(value)} if "\\n" in value else set()
    parts = {line for line in lines if len(line) >= SHORTEST} or {value, value.strip(), value.replace("\n", "\r\n")}
    parts |= {word for line in lines for word in line.split() if len(word) >= _LONG_WORD}
    for password in _PASSWORD.findall(value):
        parts |= {password, unquote(password)}
    parts |= set(_json_leaves(value))
    return {part for part in parts if len(part) >= SHORTEST}


def _json_leaves(value: str) -> Iterator[str]:
    """Of a key that is a file of JSON: what its names call secret, line by line."""
    try:
        stack = [("", json.loads(value))] if value.lstrip().startswith(("{", "[")) else []
    except (ValueError, RecursionError):
        return
    while stack:
        name, item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.items())
        elif isinstance(item, list):
            stack.extend((name, each) for each in item)
        elif isinstance(item, str) and _SECRETIVE.search(name):
            yield from (line.strip() for line in item.splitlines())


def _forms(part: str) -> set[str]:
    """A secret, and how it looks in a header, an address, a JSON text, a page or a dump. No such list is complete."""
    raw = part.encode(errors="surrogateescape")
    forms = {part, raw.decode(errors="replace"), raw.hex(), raw.hex().upper()}
    forms |= {html.escape(part), html.escape(part, quote=False), repr(part)[1:-1], part.replace("'", "'\"'\"'")}
    forms |= _in_json(part) | _in_addresses(raw) | _in_base64(raw)
    return {form for form in forms if len(form) >= SHORTEST}


def _in_json(part: str) -> set[str]:
    once = {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
    once |= {re.sub(r"\\u[0-9a-f]{4}", lambda found: "\\u" + found[0][2:].upper(), text) for text in once}
    once |= {re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text) for text in once}
    once |= {text.replace("/", "\\/") for text in once}
    return once | {json.dumps(text, ensure_ascii=False)[1:-1] for text in once}


def _in_addresses(raw: bytes) -> set[str]:
    once = {quote(raw), quote(raw, safe=""), quote(raw, safe="!'()*"), quote_plus(raw)}
    once |= {re.sub("%..", lambda found: found[0].lower(), text) for text in once}
    return once | {quote(text, safe="") for text in once}


def _in_base64(raw: bytes) -> set[str]:
    """By itself, and inside of a longer text, as in ``user:password``: what does not depend on its neighbours."""
    forms = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {encode(raw).decode(), encode(raw).decode().rstrip("=")}
        for before, shared in enumerate((0, 2, 3)):
            text = encode(bytes(before) + raw).decode()
            forms.add(text[shared:] if (before + len(raw)) % 3 == 0 else text.rstrip("=")[shared:-1])
    return forms
