"""Masks the values of a job's secrets in all its output, events and results before they are stored.

``Control`` and the pipeline of attempts call it for all jobs. A runner calls it itself only where it shortens a text,
because a part of a secret is not recognized.
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
"""Characters. Shorter values, and shorter lines of values, are not masked: they occur in too many other words."""

_SECRETIVE = re.compile(r"(?i)(key|token|secret|passw|credential)")
_LONG_WORD = 16
_TEXTS = ("output", "error", "log", "question", "budget_shortage", "carry_over")
_MASK = "***"
_PASSWORD = re.compile(r"\w+://[^\s/@:]*:(\S+)@")
_ESCAPED_LINE_END = re.compile(r"(?:\\r)?\\n")

Text = TypeVar("Text", str, bytes)


class Secrets:
    """Variables of the worker's environment that a job gets, and whose values are masked.

    All *named* variables are secrets. Of the others, those with the name of a secret are masked.
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
        """Return *value*, a text or JSON value, with every secret replaced by ``***``.

        Values deeper than the limit are replaced, too; the result is still too deep and is refused later.
        """
        return self._hide(value, 0) if self._texts else value

    def _hide(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return _replace_spans(value, _spans(value, self._texts), _MASK)
        if depth > MAX_DEPTH:
            return _MASK
        if isinstance(value, Mapping):
            return {self._hide(name, depth): self._hide(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hide(item, depth + 1) for item in value]
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        return _MASK if is_number and _spans(str(value), self._texts) else value

    def hide_in(self, result: AttemptEnd) -> AttemptEnd:
        """Return *result* with masked texts."""
        if not self._texts:
            return result
        hide = self.hide
        return replace(
            result,
            **{name: hide(getattr(result, name)) for name in _TEXTS},
            usage=self.hide_usage(result.usage),
            discovered=tuple(replace(each, task=hide(each.task), role=hide(each.role)) for each in result.discovered),
            artifacts=tuple(replace(each, path=hide(each.path)) for each in result.artifacts),
        )

    def hide_usage(self, used: Iterable[Usage]) -> tuple[Usage, ...]:
        """Return usage records with masked names; numbers stay."""
        if not self._texts:
            return tuple(used)
        hide = self.hide
        return tuple(
            replace(each, model=hide(each.model), id=hide(each.id), session_id=hide(each.session_id)) for each in used
        )

    def mask_stream(self, feed: Callable[[bytes], None]) -> MaskedStream:
        """Return a masking *feed* for a stream that arrives in arbitrary parts."""
        return MaskedStream(feed, self._bytes)


class MaskedStream:
    """Masks values in a stream. A possible beginning of a value is withheld until more arrives. Close it."""

    def __init__(self, feed: Callable[[bytes], None], values: Sequence[bytes]) -> None:
        """*values* are sorted."""
        self._feed = feed
        self._values = values
        self._longest = max(map(len, values), default=0)
        self._withheld = b""

    def __call__(self, data: bytes) -> None:
        """Take the next data."""
        if not self._values:
            self._feed(data)
            return
        data = self._withheld + data
        safe, spans = self._possible_start(data), _spans(data, self._values)
        for start, end in spans:
            if start < safe < end:
                safe = start  # a longer or overlapping value may follow
        self._withheld = data[safe:]
        self._pass_on(data[:safe], [span for span in spans if span[1] <= safe])

    def close(self) -> None:
        """End the stream."""
        data, self._withheld = self._withheld, b""
        self._pass_on(data, _spans(data, self._values))

    def _possible_start(self, data: bytes) -> int:
        """Return the position near the end of *data* where a value may start."""
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
            self._feed(_replace_spans(data, spans, _MASK.encode()))


def _spans(text: Text, forms: Sequence[Text]) -> list[tuple[int, int]]:
    """Return start and end of all *forms* in *text*, in order; overlapping ones are merged."""
    matches: list[tuple[int, int]] = []
    for form in forms:
        at = text.find(form)
        while at >= 0:
            matches.append((at, at + len(form)))
            at = text.find(form, at + 1)
    merged: list[tuple[int, int]] = []
    for start, end in sorted(matches):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _replace_spans(text: Text, spans: Sequence[tuple[int, int]], mask: Text) -> Text:
    if not spans:
        return text
    begins = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(text)]
    return mask.join(text[begin:end] for begin, end in zip(begins, ends, strict=True))


def _parts(value: str) -> set[str]:
    """Return the parts of a value that are masked separately: lines, long words, passwords and JSON leaves."""
    lines = {line.strip() for line in value.splitlines()}
    lines |= {line.strip() for line in _ESCAPED_LINE_END.split(value)} if "\\n" in value else set()
    parts = {line for line in lines if len(line) >= SHORTEST} or {value, value.strip(), value.replace("\n", "\r\n")}
    parts |= {word for line in lines for word in line.split() if len(word) >= _LONG_WORD}
    for password in _PASSWORD.findall(value):
        parts |= {password, unquote(password)}
    parts |= set(_json_leaves(value))
    return {part for part in parts if len(part) >= SHORTEST}


def _json_leaves(value: str) -> Iterator[str]:
    """Yield the lines of texts with the name of a secret, if *value* is JSON."""
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
    """Return a secret as it looks in a header, URL, JSON text, HTML page or dump. No such list is complete."""
    raw = part.encode(errors="surrogateescape")
    forms = {part, raw.decode(errors="replace"), raw.hex(), raw.hex().upper()}
    forms |= {html.escape(part), html.escape(part, quote=False), repr(part)[1:-1], part.replace("'", "'\"'\"'")}
    forms |= _in_json(part) | _in_urls(raw) | _in_base64(raw)
    return {form for form in forms if len(form) >= SHORTEST}


def _in_json(part: str) -> set[str]:
    once = {json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
    once |= {re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), text) for text in once}
    once |= {re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text) for text in once}
    once |= {text.replace("/", "\\/") for text in once}
    return once | {json.dumps(text, ensure_ascii=False)[1:-1] for text in once}


def _in_urls(raw: bytes) -> set[str]:
    once = {quote(raw), quote(raw, safe=""), quote(raw, safe="!'()*"), quote_plus(raw)}
    once |= {re.sub("%..", lambda match: match[0].lower(), text) for text in once}
    return once | {quote(text, safe="") for text in once}


def _in_base64(raw: bytes) -> set[str]:
    """Return the base64 forms, also the parts that are independent of neighbours, as in ``user:password``."""
    forms = set()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= {encode(raw).decode(), encode(raw).decode().rstrip("=")}
        for before, shared in enumerate((0, 2, 3)):
            text = encode(bytes(before) + raw).decode()
            forms.add(text[shared:] if (before + len(raw)) % 3 == 0 else text.rstrip("=")[shared:-1])
    return forms
