"""Discrete events: processes that are generators, servers with a queue, and a clock that jumps. Knows nothing of us.

A process yields what it waits for: a number (so many seconds), a Server (a place in it, first come first served, to be
given back with ``release``), or a Signal (that it is given). A hundred lines are less to learn than a library here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Generator
from typing import Any

Process = Generator[Any, None, None]


class Server:
    """So many places; who finds none waits in line. ``busy`` counts seconds of use, all places together."""

    def __init__(self, simulation: Simulation, places: int) -> None:
        self._simulation = simulation
        self.places = places
        self.used = 0
        self.line: deque[Process] = deque()
        self._busy = 0.0
        self._since = 0.0

    def release(self) -> None:
        """Give a place back; the first in line has it at once."""
        if self.line:
            self._simulation.resume(self.line.popleft())
        else:
            self._count()
            self.used -= 1

    def take(self, process: Process) -> bool:
        """Whether there was a place; if not, *process* is in line now."""
        if self.used < self.places:
            self._count()
            self.used += 1
            return True
        self.line.append(process)
        return False

    def busy(self) -> float:
        """Seconds of use so far."""
        self._count()
        return self._busy

    def _count(self) -> None:
        now = self._simulation.now
        self._busy += self.used * (now - self._since)
        self._since = now


class Signal:
    """Given once; whoever waits for it goes on, and who comes later does not wait."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.given = False
        self.waiting: list[Process] = []

    def give(self) -> None:
        """Let all go on that wait."""
        self.given = True
        for process in self.waiting:
            self._simulation.resume(process)
        self.waiting.clear()


class Simulation:
    """The clock, in seconds, and what happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._next: list[tuple[float, int, Process]] = []
        self._number = 0

    def start(self, process: Process, *, after: float = 0.0) -> None:
        """Begin a process so many seconds from now."""
        self.resume(process, after)

    def resume(self, process: Process, after: float = 0.0) -> None:
        """Let it go on then; what comes at the same moment comes in the order in which it was asked for."""
        self._number += 1
        heapq.heappush(self._next, (self.now + after, self._number, process))

    def run(self, until: float) -> None:
        """Let happen what happens up to and including *until*; then it is that late."""
        while self._next and self._next[0][0] <= until:
            self.now, _, process = heapq.heappop(self._next)
            self._go_on(process)
        self.now = max(self.now, until)

    def _go_on(self, process: Process) -> None:
        for wanted in process:
            if isinstance(wanted, Server):
                if not wanted.take(process):
                    return
            elif isinstance(wanted, Signal):
                if not wanted.given:
                    wanted.waiting.append(process)
                    return
            elif wanted > 0:
                self.resume(process, wanted)
                return


class SharedFlush:
    """A disk that one flush at a time reaches: those that come while it runs share the next one (group commit)."""

    def __init__(self, simulation: Simulation, seconds: float) -> None:
        self._simulation = simulation
        self._seconds = seconds
        self._following: Signal | None = None
        self._running = False
        self.flushes = 0
        self.asked = 0

    def ask(self) -> Signal:
        """Given when everything that was asked for until now is on the disk."""
        self.asked += 1
        if self._following is None:
            self._following = Signal(self._simulation)
        mine = self._following
        if not self._running:
            self._running = True
            self._simulation.start(self._flush())
        return mine

    def _flush(self) -> Process:
        while self._following is not None:
            served, self._following = self._following, None
            self.flushes += 1
            yield self._seconds
            served.give()
        self._running = False
