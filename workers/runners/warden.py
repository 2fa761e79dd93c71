"""Sees to it that no job outlives its worker: a small process of its own that ends what a dead worker left running.

The worker tells it over a pipe which process groups run. When the pipe closes, because the worker is gone, however it
went, the warden kills those groups and everything else that carries the worker's marker, and exits. It lives in a
session of its own and ignores the signals that stop a worker, so it is still there afterwards. Standard library only.

Lines: ``+ GROUP START_TIME`` a group runs; ``- GROUP`` it is over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from workers.runners import orphan_reaper

_SOURCE_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 5.0
_CLOSE_PATIENCE = 10.0
_RESTART_PAUSE = 1.0  # between two wardens that die at once


class Warden:
    """The worker's side: keeps one warden process alive and informed. Thread-safe; every method may be repeated."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._lock = threading.Lock()
        self._groups: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._watcher: threading.Thread | None = None
        self._closed = False
        self._closing = threading.Event()

    @property
    def pid(self) -> int | None:
        """The warden process, once there is one."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the warden unless it runs."""
        if self._process is not None:
            return
        with self._lock:
            if self._process is None and not self._closed:
                self._launch()

    def register(self, group: int, start_time: int) -> None:
        """A process group runs; *start_time* is its leader's (0: unknown, found by the marker alone)."""
        with self._lock:
            if start_time:
                self._groups[group] = start_time
                self._tell(f"+ {group} {start_time}\n")

    def forget(self, group: int) -> None:
        """The group is over."""
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._tell(f"- {group}\n")

    def close(self) -> None:
        """End the warden, as the worker's own end would: what still runs is killed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._closing.set()
            if self._process is None:
                return
            self._process = None
            os.close(self._pipe)
            self._pipe = -1
        if self._watcher is not None:
            self._watcher.join(_CLOSE_PATIENCE)

    def _launch(self) -> None:
        """Start a process and tell it everything; called with the lock held."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with orphan_reaper.starting:
                process = subprocess.Popen(
                    # No site packages: it needs the standard library only, and is there in half the time.
                    [sys.executable, "-S", "-P", "-B", "-m", "workers.runners.warden", self._marker],
                    stdin=reading,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"PYTHONPATH": str(_SOURCE_ROOT)},
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        # A warden that is stopped must never make its worker wait: a full pipe counts as a dead warden.
        os.set_blocking(writing, False)
        self._process, self._pipe = process, writing
        self._tell("".join(f"+ {group} {started}\n" for group, started in self._groups.items()))
        self._watcher = threading.Thread(
            target=self._replace_when_dead, args=(process,), name="warden-watch", daemon=True
        )
        self._watcher.start()

    def _tell(self, lines: str) -> None:
        if self._process is None or not lines:
            return
        data = lines.encode()
        try:
            if os.write(self._pipe, data) == len(data):
                return
        except BrokenPipeError:
            return  # dead; the thread that waits for it starts the next one, which hears everything
        except BlockingIOError:
            pass
        self._process.kill()

    def _replace_when_dead(self, process: subprocess.Popen[bytes]) -> None:
        began = time.monotonic()
        process.wait()
        if time.monotonic() - began < _RESTART_PAUSE:
            self._closing.wait(_RESTART_PAUSE)
        with self._lock:
            if self._process is not process:
                return
            os.close(self._pipe)
            self._pipe = -1
            self._process = None
            if not self._closed:
                self._launch()


def main() -> None:
    """The warden's side: listen until the worker is gone, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    marker = os.fsencode(sys.argv[1])
    groups = _listen()
    for group, started in groups.items():
        # A leader that is gone has left the number to its group; another process may have it only once that is empty.
        if orphan_reaper.start_time(group) in (started, None):
            orphan_reaper.signal_group(group, signal.SIGKILL)
    orphan_reaper.kill_all([marker, orphan_reaper.worker_tag(sys.argv[1])], patience=_PATIENCE)


def _listen() -> dict[int, int]:
    groups: dict[int, int] = {}
    with os.fdopen(0, "rb") as pipe:
        # Lines are shorter than what a pipe writes in one piece, so even a worker killed mid-write leaves whole ones.
        for line in pipe:
            words = line.split()
            if words[:1] == [b"+"] and len(words) == 3:  # noqa: PLR2004 - the line's three words
                groups[int(words[1])] = int(words[2])
            elif words[:1] == [b"-"] and len(words) == 2:  # noqa: PLR2004 - the line's two words
                groups.pop(int(words[1]), None)
    return groups


if __name__ == "__main__":
    main()
