"""Stored chunks of a job's output, from its beginning and its end, and a cursor that reads them.

A reader that follows the output reads the last chunk repeatedly, because it grows; ``OutputCursor`` yields what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Stream(StrEnum):
    """An output stream of a job."""

    OUT = "out"
    ERR = "err"


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A part of an attempt's output, both streams in the order in which they were read.

    *slot*: its row; a later chunk may replace it. *position*: the number of bytes before it. *size*: its bytes.
    *pieces*: (stream, text) in their order.
    """

    slot: int
    position: int
    size: int
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """New output. *left_out*: how many bytes are not stored; the text then only states this."""

    attempt: int
    stream: Stream
    text: str
    left_out: int = 0


class OutputCursor:
    """The reading position in one attempt's output. ``after``: the position to read from."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._seen = 0  # characters of the chunk at ``after``
        self._end = 0
        self.after = 0
        self.has_read = False

    def advance(self, chunks: Iterable[StoredChunk]) -> Iterator[OutputChunk]:
        """Yield what is new in *chunks*, which are those at ``after`` and later in their order."""
        for chunk in chunks:
            self.has_read = True
            if chunk.position > self.after:
                if missing := chunk.position - self._end:
                    text = f"\n… {missing:,} bytes left out …\n"
                    yield OutputChunk(self._attempt, Stream.OUT, text, left_out=missing)
                self.after, self._seen = chunk.position, 0
            seen, self._seen = self._seen, sum(len(text) for _, text in chunk.pieces)
            self._end = chunk.position + chunk.size
            for stream, text in chunk.pieces:
                if seen < len(text):
                    yield OutputChunk(self._attempt, Stream(stream), text[seen:])
                seen = max(seen - len(text), 0)
