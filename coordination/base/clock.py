"""The process's own clocks. Leases never use them: those are judged by the database's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """This machine's idea of now, aware, in UTC. For showing ages and naming files, not for deciding who holds what."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that is never set back: the only clock to measure waits with."""
    return time.monotonic()
