"""Limits a job's output to a head and tail of each stream, and cleans text for databases."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTINUATION = range(0x80, 0xC0)
_LONGEST_CHARACTER = 4


class Capture:
    """Keeps the first and the last bytes of a stream, at most *limit* in all, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self._room = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take the next output."""
        self.total += len(data)
        missing = self._room - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            data = data[missing:]
        if data:
            self._tail += data[-self._room :]
            if len(self._tail) > 2 * self._room:  # trim rarely, so that many small writes stay cheap
                del self._tail[: -self._room]

    def kept(self) -> bytes:
        """Return the kept bytes."""
        return bytes(self._head + self._tail[-self._room :])

    def text(self) -> str:
        """Return the kept text, with a notice where output was left out."""
        head, tail = bytes(self._head), bytes(self._tail[-self._room :])
        omitted = self.total - len(head) - len(tail)
        if omitted <= 0:
            return clean_text(decode(head + tail))
        whole_head, whole_tail = without_torn_end(head), _without_torn_start(tail)
        omitted += len(head) - len(whole_head) + len(tail) - len(whole_tail)
        return f"{clean_text(decode(whole_head))}\n… {omitted:,} bytes left out …\n{clean_text(decode(whole_tail))}"


def shorten(text: str, limit: int) -> str:
    """Return *text*, or its head and tail of *limit* bytes in all, with a notice between them."""
    if len(text) <= limit // 4:  # a character has at most four bytes
        return clean_text(text)
    capture = Capture(limit)
    capture.feed(text.encode("utf-8", errors="replace"))
    return capture.text()


def decode(data: bytes) -> str:
    """Decode UTF-8, with replacement characters for invalid bytes."""
    return data.decode("utf-8", errors="replace")


def clean_text(text: str) -> str:
    """Replace NULs and lone surrogates, which databases refuse, by replacement characters."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def clean_json(value: Any) -> Any:
    """Apply ``clean_text`` to every text in a JSON value, including names, and replace Decimals by floats."""
    match value:
        case str():
            return clean_text(value)
        case Decimal():
            return float(value)
        case list():
            return [clean_json(item) for item in value]
        case dict():
            return {clean_text(name): clean_json(item) for name, item in value.items()}
        case _:
            return value


def one_line(text: str, limit: int) -> str:
    """Return *text* on one line of at most *limit* characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_line(text: str, limit: int) -> str:
    """Return the last line that is not blank, at most *limit* characters."""
    for line in reversed(text.splitlines()):
        if line.strip():
            return one_line(line, limit)
    return ""


def without_line_break(text: str) -> str:
    """Return *text* without the line break at its end."""
    return text.removesuffix("\n").removesuffix("\r")


def without_torn_end(data: bytes) -> bytes:
    """Return *data* without an incomplete UTF-8 character at its end."""
    for back in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte in _CONTINUATION:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1  # noqa: PLR2004 - UTF-8
        return data[:-back] if needed > back else data
    return data


def _without_torn_start(data: bytes) -> bytes:
    start = 0
    while start < min(_LONGEST_CHARACTER - 1, len(data)) and data[start] in _CONTINUATION:
        start += 1
    return data[start:]
