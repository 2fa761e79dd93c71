"""What a job prints while it runs, as it is kept: chunks of its beginning and of its end. Pure.

Whoever follows reads the last chunk again and again, because it grows: ``OutputCursor`` says what is new each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Stream(StrEnum):
    """Where a job printed."""

    OUT = "out"
    ERR = "err"


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A part of what an attempt printed, both streams in the order in which they were read.

    *slot*: its row among the attempt's; a later chunk may take it over. *position*: how many bytes came before it.
    *size*: how many bytes it stands for.
    """

    slot: int
    position: int
    size: int
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """Something that was printed. *left_out*: bytes that are kept nowhere, and that the text speaks of."""

    attempt: int
    stream: Stream
    text: str
    left_out: int = 0


class OutputCursor:
    """What of one attempt's output was seen already. ``after``: the position from which on to read."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._seen = 0  # characters of the chunk at ``after``
        self._end = 0
        self.after = 0
        self.begun = False

    def new(self, chunks: Iterable[StoredChunk]) -> Iterator[OutputChunk]:
        """What *chunks*, those at ``after`` and later in their order, tell for the first time."""
        for chunk in chunks:
            self.begun = True
            if chunk.position > self.after:
                if missing := chunk.position - self._end:
                    text = f"\n… {missing:,} bytes left out …\n"
                    yield OutputChunk(self._attempt, Stream.OUT, text, left_out=missing)
                self.after, self._seen = chunk.position, 0
            known, self._seen = self._seen, sum(len(text) for _, text in chunk.pieces)
            self._end = chunk.position + chunk.size
            for stream, text in chunk.pieces:
                if known < len(text):
                    yield OutputChunk(self._attempt, Stream(stream), text[known:])
                known = max(known - len(text), 0)
