"""Faults of our own processes: workers, beat, jobs, interpreters, wardens; killed, stopped, ended, wrong clocks."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos.faults.base import Fault, Hit, Later
from tests.chaos.stack import LEASE, Stack, Worker


def _pids(*workers: Worker) -> set[int]:
    return {worker.pid for worker in workers if worker.pid is not None}


class WorkerKilled(Fault):
    """kill -9 of a worker process, its jobs left to the warden."""

    name, weight, gap = "worker killed", 4, 6.0

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        if worker is None:
            return None
        victims = _pids(worker)
        worker.signal(signal.SIGKILL)
        return Hit(worker.name, victims)


class AllWorkersKilled(Fault):
    """kill -9 of every worker at once."""

    name, weight, gap, lasts, broad = "all workers killed", 0.5, 40.0, (10.0, 10.0), True

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        victims = _pids(*stack.workers)
        for worker in stack.workers:
            worker.signal(signal.SIGKILL)
        return Hit("all", victims) if victims else None


class _WorkerStopped(Fault):
    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        if worker is None or worker.process is None:
            return None
        process, victims = worker.process, _pids(worker)
        worker.paused = True
        worker.signal(signal.SIGSTOP)

        def heal() -> None:
            process.send_signal(signal.SIGCONT)
            if worker.process is process:
                worker.paused = False

        return Hit(f"{worker.name} for {self.duration:.2f} s", victims, heal)


class WorkerStoppedBriefly(_WorkerStopped):
    """SIGSTOP, SIGCONT before the lease runs out."""

    name, weight, lasts = "worker stopped, shorter than its lease", 5, (0.1, LEASE * 0.5)


class WorkerStoppedLong(_WorkerStopped):
    """SIGSTOP, SIGCONT after its tasks were given to others."""

    name, weight, gap, lasts = "worker stopped, longer than its lease", 3, 20.0, (LEASE + 1.5, LEASE + 5)


class WorkerAskedToGo(Fault):
    """SIGTERM of one worker."""

    name, weight, gap = "worker asked to go", 2, 15.0

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        if worker is None:
            return None
        victims = _pids(worker)
        worker.signal(signal.SIGTERM)
        return Hit(worker.name, victims)


class RollingRestart(Fault):
    """SIGTERM of every worker, one a moment after the other."""

    name, weight, gap = "rolling restart of all workers", 0.7, 30.0

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        victims = _pids(*stack.workers)
        for place, worker in enumerate(stack.workers):
            later(place * self.chance * 2, lambda worker=worker: worker.signal(signal.SIGTERM))  # type: ignore[misc]
        return Hit("all", victims) if victims else None


class WorkerAndWardenKilled(Fault):
    """kill -9 of a worker and of the process that would have ended its jobs."""

    name, weight, gap = "worker and its warden killed", 1, 20.0

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        wardens = [child for child in _children(worker) if "warden" in " ".join(_command(child))]
        if worker is None or not wardens:
            return None
        victims = _pids(worker)
        worker.signal(signal.SIGSTOP)  # otherwise it starts another one in between
        for warden in wardens:
            warden.kill()
        worker.signal(signal.SIGKILL)
        return Hit(worker.name, victims)


class BeatKilled(Fault):
    """kill -9 of beat."""

    name, weight, gap = "beat killed", 2, 3.0

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        return Hit("beat") if stack.beat.signal(signal.SIGKILL) else None


class BeatStopped(Fault):
    """SIGSTOP of beat for a while."""

    name, weight, gap, lasts = "beat stopped", 1, 5.0, (1.0, 15.0)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        process = stack.beat.process
        if process is None or not stack.beat.signal(signal.SIGSTOP):
            return None
        return Hit("beat", heal=lambda: process.send_signal(signal.SIGCONT))


class TwoBeats(Fault):
    """A second beat is started beside the first, and killed after a while."""

    name, weight, gap, lasts = "two beats", 1, 15.0, (3.0, 15.0)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        second = stack.second_beat
        if second.wanted or stack.beat.pid is None:
            return None
        second.wanted = True

        def heal() -> None:
            second.wanted = False
            second.signal(signal.SIGKILL)

        return Hit("beat", heal=heal)


class JobKilled(Fault):
    """kill -9 of the process of a shell job."""

    name, weight = "job's process killed", 18

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        pid = self._job(stack)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return Hit(str(pid), {pid})

    def _job(self, stack: Stack) -> int | None:
        stack.tail.read()
        matches = [line.pid for line in stack.tail.open.values() if line.execution in _marker(line.pid)]
        return matches[self.number % len(matches)] if matches else None


class JobStopped(JobKilled):
    """SIGSTOP of the process of a shell job, SIGCONT later."""

    name, weight, lasts = "job's process stopped", 4, (0.2, LEASE + 3)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        pid = self._job(stack)
        if pid is None:
            return None
        return _stopped(pid)


class InterpreterKilled(Fault):
    """kill -9 of a warm interpreter, at work or idle."""

    name, weight = "interpreter killed", 18

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        pid = self._interpreter(stack)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return Hit(str(pid), {pid})

    def _interpreter(self, stack: Stack) -> int | None:
        matches = [
            child.pid
            for child in _children(self.worker(stack))
            if any(part.endswith("runners/child.py") for part in _command(child))
        ]
        return matches[self.number % len(matches)] if matches else None


class InterpreterStopped(InterpreterKilled):
    """SIGSTOP of a warm interpreter, SIGCONT later."""

    name, weight, lasts = "interpreter stopped", 4, (0.2, LEASE + 3)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        pid = self._interpreter(stack)
        if pid is None:
            return None
        return _stopped(pid)


class ClockWrong(Fault):
    """A worker whose clock is an hour ahead or behind, for one process's life."""

    name, weight, gap, lasts = "clock wrong by an hour", 1, 20.0, (6.0, 12.0)

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.wrong_clock is not None

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        if worker is None or worker.offset:
            return None
        victims = _pids(worker)
        worker.offset = 3600 if self.chance < 0.5 else -3600
        worker.signal(signal.SIGTERM)

        def heal() -> None:
            worker.offset = 0
            worker.signal(signal.SIGTERM)

        return Hit(f"{worker.name} by {worker.offset} s", victims, heal)


def _stopped(pid: int) -> Hit | None:
    handle = os.pidfd_open(pid)

    def heal() -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        os.close(handle)

    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
    return Hit(str(pid), {pid}, heal)


def _children(worker: Worker | None) -> list[psutil.Process]:
    with suppress(psutil.Error):
        if worker is not None and worker.pid is not None:
            return psutil.Process(worker.pid).children()
    return []


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _marker(pid: int) -> str:
    """Return the environment with which the process was started: shell jobs have their execution's name in it."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


KINDS: tuple[type[Fault], ...] = (
    *(WorkerKilled, AllWorkersKilled, WorkerStoppedBriefly, WorkerStoppedLong, WorkerAskedToGo, RollingRestart),
    *(
        WorkerAndWardenKilled,
        BeatKilled,
        BeatStopped,
        TwoBeats,
        JobKilled,
        JobStopped,
        InterpreterKilled,
        InterpreterStopped,
    ),
    ClockWrong,
)
