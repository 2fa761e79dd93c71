"""Runs actions later, in a thread of its own: healing must not wait for the injection of faults."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timer:
    """Actions by the time at which they are due; one after the other. ``failed`` is called with their errors."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._busy = False
        self._ended = False
        self._thread = threading.Thread(target=self._live, name="healer", daemon=True)
        self._thread.start()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Run *act* in so many seconds."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), act))
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until no action is left."""
        with self._changed:
            while self._due or self._busy:
                self._changed.wait()

    def close(self) -> None:
        """Run what is left at once, and end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _live(self) -> None:
        while (act := self._next()) is not None:
            try:
                act()
            except Exception as error:  # noqa: BLE001 - the other actions have to run
                self._failed(error)

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while True:
                if self._due and (self._ended or self._due[0][0] <= time.monotonic()):
                    self._busy = True
                    return heapq.heappop(self._due)[2]
                if self._ended:
                    return None
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
