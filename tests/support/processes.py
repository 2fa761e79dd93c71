"""Real processes under test: started, awaited by their output, signalled, and never left behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psutil

from tests.support.reaper import TAG
from tests.support.speed import factor, patience

T = TypeVar("T")

_PATIENCE = timedelta(seconds=30)


def until(look: Callable[[], T], *, within: timedelta = _PATIENCE, what: str = "it") -> T:
    """Return the first true result of *look*; AssertionError when there is none *within* the scaled time.

    For what cannot announce itself (a server's socket, a row that another process writes); prefer a signal.
    """
    deadline = time.monotonic() + patience(within).total_seconds()
    pause = 0.002
    while True:
        if answer := look():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {_said(within)}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _said(within: timedelta) -> str:
    """Return the time limit in words: as the test states it, and by how much it was scaled."""
    scaled = f" x {factor():g}" if factor() > 1 else ""
    return f"{within.total_seconds():g} s{scaled}"


class Process:
    """One started command in a session of its own; standard output and error are kept together."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        announces: bool = False,
    ) -> None:
        self.argv = [str(part) for part in argv]
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._ready: int | None = None
        descriptors: tuple[int, ...] = ()
        if announces:
            self._ready, write_end = os.pipe()
            descriptors = (write_end,)
            variables["COORD_READY_FD"] = str(write_end)
        try:
            self._popen = subprocess.Popen(
                self.argv,
                env=variables,
                cwd=cwd,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            for fd in descriptors:
                os.close(fd)
        self.pid = self._popen.pid
        self._said = bytearray()
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Return its whole output so far."""
        with self._more:
            return self._said.decode(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """Return its exit code (negative: the signal that ended it), or None while it runs."""
        return self._popen.poll()

    def wait_for(self, pattern: str, *, within: timedelta = _PATIENCE) -> re.Match[str]:
        """Return the first match of *pattern* in its output; AssertionError when it ends or the time is up before."""
        deadline = time.monotonic() + patience(within).total_seconds()
        with self._more:
            while True:
                ended = self._popen.poll() is not None and not self._reader.is_alive()
                if match := re.search(pattern, self._said.decode(errors="replace"), re.MULTILINE):
                    return match
                if ended:
                    raise AssertionError(f"ended with {self.exit_code} before saying {pattern!r}{self._told()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"did not say {pattern!r} within {_said(within)}{self._told()}")
                # Each line ends the wait; the cap is for a process that ends while its child keeps the pipe open.
                self._more.wait(min(left, 0.5))

    def wait_until_ready(self, *, within: timedelta = _PATIENCE) -> Process:
        """Return itself, as soon as it has written ``ready`` to the pipe named in COORD_READY_FD."""
        if self._ready is None:
            raise AssertionError("started without announces=True")
        heard = b""
        deadline = time.monotonic() + patience(within).total_seconds()
        while b"ready" not in heard:
            readable, _, _ = select.select([self._ready], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise AssertionError(f"not ready within {_said(within)}{self._told()}")
            chunk = os.read(self._ready, 64)
            if not chunk:
                raise AssertionError(f"closed its pipe before it was ready{self._told()}")
            heard += chunk
        return self

    def wait_for_port(self, port: int, *, within: timedelta = _PATIENCE) -> None:
        """Wait until a server listens on the loopback *port*."""

        def listens() -> bool:
            if self.exit_code is not None:
                raise AssertionError(f"ended with {self.exit_code} before listening on {port}{self._told()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens, within=within, what=f"something listens on {port}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        self._popen.send_signal(number)

    def stop(self, *, within: timedelta = _PATIENCE) -> int:
        """Ask it to end (SIGTERM), and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within=within)

    def wait(self, *, within: timedelta = _PATIENCE) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        try:
            return self._popen.wait(patience(within).total_seconds())
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {_said(within)}{self._told()}") from None

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it is gone; its child processes live on."""
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """End it and its process group, whatever their state."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join(timeout=5)
        if self._popen.stdout is not None and not self._reader.is_alive():
            self._popen.stdout.close()
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None

    def _read(self) -> None:
        assert self._popen.stdout is not None
        while chunk := os.read(self._popen.stdout.fileno(), 65536):
            with self._more:
                self._said += chunk
                self._more.notify_all()
        with self._more:
            self._more.notify_all()

    def _told(self) -> str:
        return f"\n$ {' '.join(self.argv)}\n{self.output}"


class Processes:
    """All processes that one test starts; closing it ends them, the last first."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def start(
        self,
        *argv: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        announces: bool = False,
    ) -> Process:
        """Start a command; *env* is added to the environment of the tests."""
        process = Process(argv, env=env, cwd=cwd, announces=announces)
        self._started.append(process)
        return process

    def start_python(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        announces: bool = False,
    ) -> Process:
        """Start the Python that runs the tests."""
        return self.start(sys.executable, *arguments, env=env, cwd=cwd, announces=announces)

    def start_worker(self, env: Mapping[str, str], *arguments: str) -> Process:
        """Start a Celery worker as the product does, and wait until it takes jobs."""
        return self.start_python("-m", "workers", *arguments, env=env, announces=True).wait_until_ready()

    def close(self) -> None:
        """End them all."""
        while self._started:
            self._started.pop().close()


def mark_descendants() -> str:
    """Mark all processes that are started from now on, however they detach themselves; `leftovers` finds the mark."""
    tag = uuid4().hex
    os.environ[TAG] = tag
    return tag


def leftovers(tag: str, *, within: timedelta = timedelta(seconds=5)) -> list[psutil.Process]:
    """Return processes that carry *tag*, or are our children, and have not ended *within* the time."""
    return psutil.wait_procs(_descendants(tag), timeout=within.total_seconds())[1]


def describe(process: psutil.Process) -> str:
    """Return one line on a process for an error message."""
    try:
        return f"{process.pid} {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return f"{process.pid} (gone)"


def _descendants(tag: str) -> list[psutil.Process]:
    by_pid = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            if process.environ().get(TAG) == tag and process.pid != os.getpid():
                by_pid[process.pid] = process
        except psutil.Error:
            continue
    return [process for process in by_pid.values() if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
