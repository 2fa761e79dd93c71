"""What is kept of a job's output: a bounded head and tail of each stream, as text that every database accepts."""

from __future__ import annotations

import re
from typing import Any

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTINUATION = range(0x80, 0xC0)
_LONGEST_CHARACTER = 4


class Capture:
    """Keeps the first and the last bytes of a stream, *limit* in all; memory stays bounded whatever arrives."""

    def __init__(self, limit: int) -> None:
        self._room = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def feed(self, data: bytes) -> None:
        """Take what arrived next."""
        self.total += len(data)
        missing = self._room - len(self._head)
        if missing > 0:
            self._head += data[:missing]
            data = data[missing:]
        if data:
            self._tail += data[-self._room :]
            if len(self._tail) > 2 * self._room:  # trimmed now and then, so that many small writes stay cheap
                del self._tail[: -self._room]

    def kept(self) -> bytes:
        """The bytes that were kept."""
        return bytes(self._head + self._tail[-self._room :])

    def text(self) -> str:
        """What was kept, with a notice where something was left out."""
        head, tail = bytes(self._head), bytes(self._tail[-self._room :])
        left_out = self.total - len(head) - len(tail)
        if left_out <= 0:
            return clean_text(decode(head + tail))
        whole_head, whole_tail = without_torn_end(head), _without_torn_start(tail)
        left_out += len(head) - len(whole_head) + len(tail) - len(whole_tail)
        return f"{clean_text(decode(whole_head))}\n… {left_out:,} bytes left out …\n{clean_text(decode(whole_tail))}"


def shorten(text: str, limit: int) -> str:
    """Return *text*, or its head and tail of *limit* bytes in all, with a notice between them."""
    if len(text) <= limit // 4:  # four bytes are the longest character
        return clean_text(text)
    capture = Capture(limit)
    capture.feed(text.encode("utf-8", errors="replace"))
    return capture.text()


def decode(data: bytes) -> str:
    """UTF-8, with a replacement character for whatever is not."""
    return data.decode("utf-8", errors="replace")


def clean_text(text: str) -> str:
    """*text* without what a database refuses: NULs and lone surrogates become replacement characters."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def clean_json(value: Any) -> Any:
    """The same for every text inside a JSON value, names included."""
    match value:
        case str():
            return clean_text(value)
        case list():
            return [clean_json(item) for item in value]
        case dict():
            return {clean_text(name): clean_json(item) for name, item in value.items()}
        case _:
            return value


def one_line(text: str, limit: int) -> str:
    """*text* on one line, at most *limit* characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_line(text: str, limit: int) -> str:
    """The last line that says something, at most *limit* characters."""
    for line in reversed(text.splitlines()):
        if line.strip():
            return one_line(line, limit)
    return ""


def without_line_break(text: str) -> str:
    """*text* without the one line break that ends it."""
    return text.removesuffix("\n").removesuffix("\r")


def without_torn_end(data: bytes) -> bytes:
    """*data* up to where its last character is whole."""
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
