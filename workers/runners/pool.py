"""A pool of interpreters for Python jobs: idle ones are reused, old ones are ended.

A process is reused only for jobs with the same fixed properties: module path, directory, environment. A process that
crashed, was stopped or left something behind is not reused.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import timedelta

from workers.runners.interpreter import Interpreter, InterpreterKey
from workers.runners.process import Launcher

_POLL = 2.0  # seconds


class InterpreterPool:
    """The interpreters of one worker process. Thread-safe. ``confined``: whether they run in a sandbox."""

    def __init__(
        self, launcher: Launcher, *, max_idle: int = 16, max_idle_age: timedelta = timedelta(seconds=60)
    ) -> None:
        self._launcher = launcher
        self._max_idle = max_idle
        self._max_age = max_idle_age.total_seconds()
        self._max_jobs = 1000
        self._min_age = 60.0  # a start costs as much as thousands of the shortest jobs
        self._changed = threading.Condition()
        self._idle: deque[Interpreter] = deque()  # the longest idle first
        self._retired: list[Interpreter] = []
        self._janitor: threading.Thread | None = None
        self._closed = False
        self.confined = launcher.confines

    def take(self, key: InterpreterKey) -> Interpreter:
        """Return a process for *key*: the most recently idle one, or a new one. Raises OSError when starting fails."""
        while True:
            with self._changed:
                interpreter = next((each for each in reversed(self._idle) if each.key == key), None)
                if interpreter is None:
                    break
                self._idle.remove(interpreter)
            if interpreter.is_alive():
                return interpreter
            interpreter.close()
        return Interpreter(key, self._launcher)

    def give_back(self, interpreter: Interpreter) -> None:
        """Return a process that can run another job."""
        interpreter.idle_since = time.monotonic()
        is_worn = interpreter.jobs >= self._max_jobs and interpreter.idle_since - interpreter.born >= self._min_age
        with self._changed:
            if self._closed or is_worn:
                self._retired.append(interpreter)
            else:
                self._idle.append(interpreter)
                if len(self._idle) > self._max_idle:
                    self._retired.append(self._idle.popleft())
            closed = self._closed
            if self._janitor is None and not closed:
                self._janitor = threading.Thread(target=self._tidy, name="interpreter-janitor", daemon=True)
                self._janitor.start()
            elif self._retired:
                self._changed.notify_all()
        if closed:
            self._end_retired()

    def close(self) -> None:
        """End all idle processes. Busy ones end with their job."""
        with self._changed:
            self._closed = True
            self._retired += self._idle
            self._idle.clear()
            self._changed.notify_all()
        if self._janitor is not None:
            self._janitor.join()
        self._end_retired()

    def _tidy(self) -> None:
        """End retired, old and dead processes, in the janitor thread."""
        while True:
            with self._changed:
                while not self._retired and not self._closed and not self._take_unfit():
                    # ``give_back`` does not notify, for the speed of short jobs, so poll. An idle process that was
                    # killed is a zombie until then.
                    ages = [self._idle[0].idle_since + self._max_age - time.monotonic()] if self._idle else []
                    self._changed.wait(min([_POLL, *ages]))
                if self._closed:
                    return
            self._end_retired()

    def _take_unfit(self) -> bool:
        limit = time.monotonic() - self._max_age
        unfit = [idle for idle in self._idle if idle.idle_since <= limit or not idle.is_alive()]
        for interpreter in unfit:
            self._idle.remove(interpreter)
        self._retired += unfit
        return bool(unfit)

    def _end_retired(self) -> None:
        with self._changed:
            retired, self._retired = self._retired, []
        for interpreter in retired:
            interpreter.end_gently()
            interpreter.close()
