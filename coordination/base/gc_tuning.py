"""Settings of Python's cyclic garbage collector that avoid long pauses for objects that never become garbage.

A full collection of a worker checks some hundred thousand objects of its libraries and takes 0.1 s, in which no thread
runs; with the default thresholds there is one every few thousand short jobs. Measure the effect with: ``python -m
benchmarks variants``. Objects outside of cycles are freed at once as always.

With rare collections, cycles accumulate: each lost connection to Redis is one, and at the thresholds below a full
collection would come after hours. So long-lived processes also collect by time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_THRESHOLDS = (10_000, 20, 50)


def freeze_loaded_objects() -> None:
    """Freeze the objects of a process that has loaded its modules, and collect less often."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def collect_cycles() -> None:
    """Collect the cycles that were created after the freeze. This stops all threads for some milliseconds."""
    gc.collect()


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Disable collections while something large and permanent is built, then restore the setting."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
