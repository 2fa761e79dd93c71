"""The process's own clocks. Leases use the database's clock instead."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return this machine's time, aware, in UTC: to show ages and name files, not to judge leases."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return the seconds of a clock that is never set back, to measure waits."""
    return time.monotonic()
