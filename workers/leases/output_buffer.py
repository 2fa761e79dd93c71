"""A bounded buffer of a job's output until it is stored, which keeps the beginning and the end. Thread-safe.

Text is kept in chunks. Each chunk of the beginning has its own row; those of the end share a fixed number of rows in
turn. The last chunk grows and is rewritten when it did, so a job that prints a line now and then needs few rows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from coordination.domain.jobs.output import StoredChunk
from workers.runners.output import clean_text, decode, without_torn_end

CHUNK = 16_384
"""Bytes of a chunk."""

YOUNG = 0.7
"""Seconds. The output of a job that ends before then is written only with its end."""

_MOST_WAITING = 8  # chunks of the end that wait to be written
_PIECE = 16  # bytes of overhead per piece


@dataclass(slots=True)
class _GrowingChunk:
    """A chunk to which text is added. *number*: how many chunks were numbered before it, once it was handed out."""

    position: int
    pieces: list[tuple[str, bytearray]]
    size: int = 0
    weight: int = 0
    number: int | None = None
    written: int = 0


class OutputBuffer:
    """The output of one attempt that began at *began* (monotonic seconds). Keeps about *limit* bytes.

    *elsewhere*: the attempt's result contains the output too, so that a short job need not store it here.
    """

    def __init__(self, limit: int, *, began: float, elsewhere: bool = True) -> None:
        self._began = began
        self._elsewhere = elsewhere
        self._half = max(limit // 2 // CHUNK, 1)
        self._lock = threading.Lock()
        self._torn: dict[str, bytes] = {}
        self._growing = _GrowingChunk(0, [])
        self._waiting: list[_GrowingChunk] = []  # full, not handed out yet
        self._unwritten: dict[int, StoredChunk] = {}  # full and handed out, by slot: perhaps not in the store
        self._numbered = 0

    def feed(self, stream: str, data: bytes) -> None:
        """Add output. A character that is cut off at the end waits for its rest."""
        with self._lock:
            data = self._torn.pop(stream, b"") + data
            whole = without_torn_end(data)
            if len(whole) < len(data):
                self._torn[stream] = data[len(whole) :]
            self._add(stream, whole)

    def due(self, now: float) -> list[StoredChunk]:
        """Return what is to be written at *now* (monotonic seconds), again until ``mark_written``."""
        return [] if now - self._began < YOUNG else self._take()

    def drain(self) -> list[StoredChunk]:
        """Return what is to be written with the attempt's end: nothing if no chunk was and the result contains it."""
        with self._lock:
            if not self._numbered and self._elsewhere:
                return []
            torn, self._torn = self._torn, {}
            for stream, data in torn.items():
                self._add(stream, data)
        return self._take()

    def mark_written(self, chunks: list[StoredChunk]) -> None:
        """Forget chunks that are in the store."""
        with self._lock:
            for chunk in chunks:
                if self._unwritten.get(chunk.slot) is chunk:
                    del self._unwritten[chunk.slot]
                if chunk.position == self._growing.position:
                    self._growing.written = chunk.size

    def _take(self) -> list[StoredChunk]:
        with self._lock:
            for full in self._waiting:
                self._hand_out(full)
            self._waiting = []
            chunks = dict(self._unwritten)
            if self._growing.size > self._growing.written:
                if self._growing.number is None:
                    self._growing.number = self._next_number()
                chunk = self._chunk(self._growing)
                chunks[chunk.slot] = chunk
        return list(chunks.values())

    def _add(self, stream: str, data: bytes) -> None:
        while data:
            if self._growing.weight >= CHUNK:
                self._close()
            growing = self._growing
            room = CHUNK - growing.weight
            part = data if len(data) <= room else without_torn_end(data[:room]) or data[:4]
            data = data[len(part) :]
            if not growing.pieces or growing.pieces[-1][0] != stream:
                growing.pieces.append((stream, bytearray()))
                growing.weight += _PIECE
            growing.pieces[-1][1].extend(part)
            growing.size += len(part)
            growing.weight += len(part)

    def _close(self) -> None:
        full, self._growing = self._growing, _GrowingChunk(self._growing.position + self._growing.size, [])
        if full.number is not None:
            self._hand_out(full)
            return
        self._waiting.append(full)
        head = max(self._half - self._numbered, 0)  # how many of the waiting ones belong to the beginning
        if len(self._waiting) > head + _MOST_WAITING:
            del self._waiting[head]

    def _hand_out(self, full: _GrowingChunk) -> None:
        if full.number is None:
            full.number = self._next_number()
        chunk = self._chunk(full)
        self._unwritten[chunk.slot] = chunk

    def _next_number(self) -> int:
        self._numbered += 1
        return self._numbered - 1

    def _chunk(self, source: _GrowingChunk) -> StoredChunk:
        assert source.number is not None  # noqa: S101 - callers have set it
        beyond = source.number - self._half
        slot = source.number if beyond < 0 else self._half + beyond % self._half
        pieces = tuple((stream, clean_text(decode(bytes(data)))) for stream, data in source.pieces)
        return StoredChunk(slot, source.position, source.size, pieces)
