"""Keeps Python's cyclic garbage collector from stopping everybody for what will never be garbage.

A full collection of a worker looks at some hundred thousand objects of its libraries and takes 0.1 s, in which no
thread runs; with the interpreter's own thresholds it came once in a few thousand short jobs. What that is worth:
``python -m benchmarks variants``. Whatever is not part of a cycle goes at once as ever.

Collections that come seldom let cycles pile up: each connection to Redis that a worker loses is one, and
at the thresholds below the last collection of all would come after hours. So a process that lives long tidies by time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_THRESHOLDS = (10_000, 20, 50)


def settle() -> None:
    """For a process of ours that has loaded what it needs: what exists now stays, and collections come less often."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def tidy() -> None:
    """Collect every cycle that came into being since ``settle``. No thread runs meanwhile, for some milliseconds."""
    gc.collect()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """No collections while something large is built that all stays; the caller's process gets its own setting back."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
