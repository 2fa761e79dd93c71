"""Identifiers: UUID version 7 (RFC 9562), time-ordered, generated here because Python 3.11 to 3.13 cannot."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0

SHORTEST_PART = 4
"""The least letters of an id's part that can name it; an id has 36."""

SHORT = 12
"""How many letters at the end of an id, its random part, people read and type for it."""

_SUB_MS_STEPS = 1 << 12
_RAND_B_BITS = 62


def new_id() -> str:
    """Return a new UUIDv7 in canonical text form.

    The 12 bits after the milliseconds are their fraction, and the ids of one process never decrease (RFC 9562 section
    6.2, method 3), so consecutive rows sort in their order.
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
    """Return whether *text* is a UUID in canonical form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def id_part(text: str) -> str | None:
    """Return *text* in lower case if it can be the beginning, the end or the whole of an id; else None."""
    part = text.lower()
    return part if len(part) >= SHORTEST_PART and not set(part) - set("0123456789abcdef-") else None
