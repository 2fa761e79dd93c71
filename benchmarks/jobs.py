"""The jobs that the benchmarks run: next to nothing, so that what is measured is the way there and back.

Besides ``nothing``, any name is a job here: ``job_17`` does nothing under a name of its own, and is a kind of its own
to programs that predict durations from names; ``nap_mProject`` sleeps for as long as its arguments say.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from coordination.job import record_usage


def nothing() -> None:
    """Return at once."""


def spend(usd: str) -> None:
    """Say that a call of a model cost so much."""
    record_usage(model="m", input_tokens=1, output_tokens=1, cost_usd=usd)


def nap(seconds: float) -> None:
    """Sleep, in place of work."""
    if seconds > 0:
        time.sleep(seconds)


def __getattr__(name: str) -> Callable[..., None]:
    """A job of that name (PEP 562)."""
    if name.startswith("job_"):
        return nothing
    if name.startswith("nap_"):
        return nap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
