"""Memory and processor time of a running job, summed over its processes, from /proc.

Memory is resident memory (shared pages count once), because the size of the address space means little. One scan of all
processes of the host serves all jobs that need it at about the same time.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import threading
import time
from dataclasses import dataclass

from coordination.base.sizes import show_size
from coordination.domain.jobs.resource_limits import Limits
from workers.runners import orphan_reaper
from workers.runners.process import Process
from workers.runners.system_limits import cpu_sentence

POLL_EVERY = 0.5
"""Seconds between measurements of a job with a limit of memory or processor time."""

_SOON = 0.1  # at first and while its memory grows fast
_FAST = 0.1  # growth since the last measurement, as a fraction of the limit
_FRESH = 0.05
_PAGE = resource.getpagesize()
_TICKS = os.sysconf("SC_CLK_TCK")
_KERNEL_THREAD = 0x00200000


@dataclass(frozen=True, slots=True)
class _ProcessStat:
    """A process at one moment: its relations and its usage."""

    parent: int
    group: int
    session: int
    started: int
    ticks: int  # its own, and those of children that it has waited for
    resident: int  # bytes


class _Host:
    """All processes of the host, cached for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = -math.inf
        self._processes: dict[int, _ProcessStat] = {}

    def scan(self) -> dict[int, _ProcessStat]:
        with self._lock:
            if time.monotonic() - self._at > _FRESH:
                pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - only names are needed
                self._processes = {pid: stat for pid in pids if (stat := _read_stat(pid)) is not None}
                self._at = time.monotonic()
            return self._processes


_host = _Host()


class ResourceMeter:
    """Measures one job. *reused*: its process has run jobs before, so only its usage from now on counts."""

    def __init__(self, process: Process, limits: Limits, *, reused: bool) -> None:
        self._record = process.record
        self._markers = process.markers
        self._limits = limits
        before = _read_stat(self._record.pid) if reused else None
        self._before = 0 if before is None else before.ticks
        self._ticks = 0
        self._resident = 0
        self._unrelated: set[tuple[int, int]] = set()
        self.next_poll = time.monotonic() + _SOON

    def exceeded(self, now: float) -> tuple[str, bool] | None:
        """Return a sentence on the exceeded limit and whether to kill the job at once, or None."""
        self.next_poll = now + POLL_EVERY
        mine = self._select_own(_host.scan())
        if (memory := self._limits.memory) is not None:
            used = sum(process.resident for process in mine.values())
            if used - self._resident > memory * _FAST:
                self.next_poll = now + _SOON
            self._resident = used
            if used > memory and len(mine) > 1:
                used = sum(_proportional(pid, process.resident) for pid, process in mine.items())
            if used > memory:
                return f"used {show_size(used)} of memory; it may use {show_size(memory)}", True
        if (cpu := self._limits.cpu) is not None:
            self._ticks = max(self._ticks, sum(process.ticks for process in mine.values()) - self._before)
            if self._ticks / _TICKS > cpu.total_seconds():
                return cpu_sentence(cpu), False
        return None

    def _select_own(self, processes: dict[int, _ProcessStat]) -> dict[int, _ProcessStat]:
        """Return the job's processes: those of its group and session, their children, and those with its marker."""
        leader = self._record.pid
        mine = {pid: process for pid, process in processes.items() if leader in (process.group, process.session)}
        for pid, process in processes.items():
            key = (pid, process.started)
            if pid in mine or process.started < self._record.start_time or key in self._unrelated:
                continue
            if process.parent in mine or orphan_reaper.is_marked(pid, self._markers):
                mine[pid] = process
            else:
                self._unrelated.add(key)
        return mine


def _read_stat(pid: int) -> _ProcessStat | None:
    fields = orphan_reaper.stat(pid)
    if not fields or int(fields[6]) & _KERNEL_THREAD:
        return None
    return _ProcessStat(
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        ticks=sum(map(int, fields[11:15])),
        resident=int(fields[21]) * _PAGE,
    )


def _proportional(pid: int, resident: int) -> int:
    """Return the proportional set size of a process in bytes, or *resident* where the system has none."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - as for stat
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1_024
    return resident
