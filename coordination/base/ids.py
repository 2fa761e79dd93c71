"""Identifiers: UUID version 7 (RFC 9562), time-ordered, made here because Python 3.11 to 3.13 cannot."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0

SHORTEST_PART = 4
"""So many letters of an id name it, at least; an id has 36."""

SHORT = 12
"""So many letters at the end of an id stand for it in what people read and type: its random part."""

_SUB_MS_STEPS = 1 << 12
_RAND_B_BITS = 62


def new_id() -> str:
    """A fresh UUIDv7 in canonical text form.

    The 12 bits after the millisecond hold its fraction, and ids made by one process never go backwards
    (RFC 9562 section 6.2, method 3), so rows written one after the other sort in that order.
    """
    global _last  # noqa: PLW0603 - the monotonic guarantee is per process
    ns = time.time_ns()
    ms, rest = divmod(ns, 1_000_000)
    stamp = (ms << 12) | (rest * _SUB_MS_STEPS // 1_000_000)
    with _lock:
        if stamp <= _last:
            stamp = _last + 1
        _last = stamp
    random = int.from_bytes(os.urandom(8), "big") & ((1 << _RAND_B_BITS) - 1)
    value = ((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | random
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_id(text: str) -> bool:
    """Whether *text* is a UUID in canonical form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def id_part(text: str) -> str | None:
    """*text* as the beginning, the end or the whole of an id, in lower case; None when it is none, or too short."""
    part = text.lower()
    return part if len(part) >= SHORTEST_PART and not set(part) - set("0123456789abcdef-") else None
