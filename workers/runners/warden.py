"""A small process that ends the jobs of its worker when the worker dies. Standard library only.

The worker sends the running process groups over a pipe. When the pipe closes, because the worker has ended in any way,
the warden kills these groups and all other processes with the worker's marker, and exits. It has its own session and
ignores the signals that stop a worker, so that it outlives the worker.

Lines: ``+ GROUP START_TIME`` a group runs; ``- GROUP`` it has ended.
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
    """The worker's side: keeps one warden process running and informed. Thread-safe; every method may be repeated."""

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
        """The pid of the warden process, once it has started."""
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
        """Add a running process group. *start_time*: of its leader (0: unknown, found only by its marker)."""
        with self._lock:
            if start_time:
                self._groups[group] = start_time
                self._send(f"+ {group} {start_time}\n")

    def forget(self, group: int) -> None:
        """Remove a group that has ended."""
        with self._lock:
            if self._groups.pop(group, None) is not None:
                self._send(f"- {group}\n")

    def close(self) -> None:
        """End the warden, which kills what still runs, as when the worker ends."""
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
        """Start a warden and send it all groups. Called with the lock held."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with orphan_reaper.starting:
                process = subprocess.Popen(
                    # Without site packages, it starts in half the time.
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
        # A suspended warden must not block its worker: a full pipe counts as a dead warden.
        os.set_blocking(writing, False)
        self._process, self._pipe = process, writing
        self._send("".join(f"+ {group} {started}\n" for group, started in self._groups.items()))
        self._watcher = threading.Thread(
            target=self._replace_when_dead, args=(process,), name="warden-watch", daemon=True
        )
        self._watcher.start()

    def _send(self, lines: str) -> None:
        if self._process is None or not lines:
            return
        data = lines.encode()
        try:
            if os.write(self._pipe, data) == len(data):
                return
        except BrokenPipeError:
            return  # dead; the watching thread starts the next one, which receives all groups
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
    """Run the warden: read lines until the worker has ended, then kill its processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    marker = os.fsencode(sys.argv[1])
    groups = _read_groups()
    for group, started in groups.items():
        # The number of an ended leader is not reused while its group has processes.
        if orphan_reaper.start_time(group) in (started, None):
            orphan_reaper.signal_group(group, signal.SIGKILL)
    orphan_reaper.kill_all([marker, orphan_reaper.worker_tag(sys.argv[1])], patience=_PATIENCE)


def _read_groups() -> dict[int, int]:
    groups: dict[int, int] = {}
    with os.fdopen(0, "rb") as pipe:
        # Lines are short enough for atomic pipe writes, so a killed worker leaves only complete ones.
        for line in pipe:
            words = line.split()
            if words[:1] == [b"+"] and len(words) == 3:  # noqa: PLR2004 - the line's three words
                groups[int(words[1])] = int(words[2])
            elif words[:1] == [b"-"] and len(words) == 2:  # noqa: PLR2004 - the line's two words
                groups.pop(int(words[1]), None)
    return groups


if __name__ == "__main__":
    main()
