"""What a job has printed so far, until it is written: bounded whatever arrives, beginning and end kept. Thread-safe.

Text is kept in chunks. Those of the beginning have rows of their own; those of the end take turns with a fixed number
of rows. The last chunk grows, and is written again when it did, so a job that prints a line now and then has few rows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from coordination.domain.jobs.output import StoredChunk
from workers.runners.output import clean_text, decode, without_torn_end

CHUNK = 16_384
"""Bytes of a chunk."""

YOUNG = 0.7
"""Seconds: what a job says that is over before then is written with its end, and nowhere else."""

_MOST_WAITING = 8  # chunks of the end that wait to be written
_PIECE = 16  # what a piece costs besides its bytes


@dataclass(slots=True)
class _Open:
    """The chunk that grows. *number*: how many were numbered before it, once it was handed out."""

    position: int
    pieces: list[tuple[str, bytearray]]
    size: int = 0
    weight: int = 0
    number: int | None = None
    written: int = 0


class OutputBuffer:
    """The output of one attempt, of which about *limit* bytes are kept; it began at *began* (monotonic seconds).

    *elsewhere*: the attempt's result holds it too, as it does of all jobs but those whose story is told.
    """

    def __init__(self, limit: int, *, began: float, elsewhere: bool = True) -> None:
        self._began = began
        self._elsewhere = elsewhere
        self._half = max(limit // 2 // CHUNK, 1)
        self._lock = threading.Lock()
        self._torn: dict[str, bytes] = {}
        self._open = _Open(0, [])
        self._waiting: list[_Open] = []  # full, not handed out yet
        self._unwritten: dict[int, StoredChunk] = {}  # full and handed out, by slot: perhaps not in the store
        self._numbered = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was printed next."""
        with self._lock:
            data = self._torn.pop(stream, b"") + data
            whole = without_torn_end(data)
            if len(whole) < len(data):
                self._torn[stream] = data[len(whole) :]
            self._add(stream, whole)

    def due(self, now: float) -> list[StoredChunk]:
        """What is to be written at *now* (monotonic seconds), the same again until ``wrote`` is told."""
        return [] if now - self._began < YOUNG else self._take()

    def last(self) -> list[StoredChunk]:
        """What is to be written with the attempt's end; nothing if nothing was before and the result holds it."""
        with self._lock:
            if not self._numbered and self._elsewhere:
                return []
            torn, self._torn = self._torn, {}
            for stream, data in torn.items():
                self._add(stream, data)
        return self._take()

    def wrote(self, chunks: list[StoredChunk]) -> None:
        """These are in the store."""
        with self._lock:
            for chunk in chunks:
                if self._unwritten.get(chunk.slot) is chunk:
                    del self._unwritten[chunk.slot]
                if chunk.position == self._open.position:
                    self._open.written = chunk.size

    def _take(self) -> list[StoredChunk]:
        with self._lock:
            for full in self._waiting:
                self._hand_out(full)
            self._waiting = []
            found = dict(self._unwritten)
            if self._open.size > self._open.written:
                if self._open.number is None:
                    self._open.number = self._next_number()
                growing = self._chunk(self._open)
                found[growing.slot] = growing
        return list(found.values())

    def _add(self, stream: str, data: bytes) -> None:
        while data:
            if self._open.weight >= CHUNK:
                self._close()
            now = self._open
            room = CHUNK - now.weight
            part = data if len(data) <= room else without_torn_end(data[:room]) or data[:4]
            data = data[len(part) :]
            if not now.pieces or now.pieces[-1][0] != stream:
                now.pieces.append((stream, bytearray()))
                now.weight += _PIECE
            now.pieces[-1][1].extend(part)
            now.size += len(part)
            now.weight += len(part)

    def _close(self) -> None:
        full, self._open = self._open, _Open(self._open.position + self._open.size, [])
        if full.number is not None:
            self._hand_out(full)
            return
        self._waiting.append(full)
        of_the_beginning = max(self._half - self._numbered, 0)
        if len(self._waiting) > of_the_beginning + _MOST_WAITING:
            del self._waiting[of_the_beginning]

    def _hand_out(self, full: _Open) -> None:
        if full.number is None:
            full.number = self._next_number()
        chunk = self._chunk(full)
        self._unwritten[chunk.slot] = chunk

    def _next_number(self) -> int:
        self._numbered += 1
        return self._numbered - 1

    def _chunk(self, made: _Open) -> StoredChunk:
        assert made.number is not None  # noqa: S101 - just given
        beyond = made.number - self._half
        slot = made.number if beyond < 0 else self._half + beyond % self._half
        pieces = tuple((stream, clean_text(decode(bytes(data)))) for stream, data in made.pieces)
        return StoredChunk(slot, made.position, made.size, pieces)
