"""What a running job uses, all its processes together, as /proc tells.

Memory is what its processes hold in RAM (pages that they share count once), because the address space of many programs
says nothing. One look at all processes of the host serves all jobs that ask within a moment.
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

LOOK_EVERY = 0.5
"""Seconds between looks at a job that has a limit of memory or processor time."""

_SOON = 0.1  # while its memory grows fast, and at first
_FAST = 0.1  # of what it may use, since the last look
_FRESH = 0.05
_PAGE = resource.getpagesize()
_TICKS = os.sysconf("SC_CLK_TCK")
_KERNEL_THREAD = 0x00200000


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process at one look: who it belongs to, and what it uses."""

    parent: int
    group: int
    session: int
    started: int
    ticks: int  # of its own, and of its children that it has waited for
    resident: int  # bytes


class _Host:
    """All processes, looked at once for all that ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = -math.inf
        self._seen: dict[int, _Seen] = {}

    def look(self) -> dict[int, _Seen]:
        with self._lock:
            if time.monotonic() - self._at > _FRESH:
                self._seen = {pid: one for pid in _pids() if (one := _look_at(pid)) is not None}
                self._at = time.monotonic()
            return self._seen


_host = _Host()


class ResourceMeter:
    """Measures one job. *reused*: its process has worked before, and only what it uses from now on counts."""

    def __init__(self, process: Process, limits: Limits, *, reused: bool) -> None:
        self._record = process.record
        self._markers = process.markers
        self._limits = limits
        before = _look_at(self._record.pid) if reused and limits.cpu else None
        self._before = 0 if before is None else before.ticks
        self._ticks = 0
        self._held = 0
        self._strangers: set[tuple[int, int]] = set()
        self.next_look = time.monotonic() + _SOON if limits.memory or limits.cpu else math.inf

    def exceeded(self, now: float) -> tuple[str, bool] | None:
        """What it uses too much of, in one sentence, and whether to end it without asking; None if nothing."""
        self.next_look = now + LOOK_EVERY
        mine = self._mine(_host.look())
        if (memory := self._limits.memory) is not None:
            used = sum(one.resident for one in mine.values())
            if used - self._held > memory * _FAST:
                self.next_look = now + _SOON
            self._held = used
            if used > memory and len(mine) > 1:
                used = sum(_proportional(pid, one.resident) for pid, one in mine.items())
            if used > memory:
                return f"used {show_size(used)} of memory; it may use {show_size(memory)}", True
        if (cpu := self._limits.cpu) is not None:
            self._ticks = max(self._ticks, sum(one.ticks for one in mine.values()) - self._before)
            if self._ticks / _TICKS > cpu.total_seconds():
                return cpu_sentence(cpu), False
        return None

    def _mine(self, seen: dict[int, _Seen]) -> dict[int, _Seen]:
        """The job's processes: those of its group and session, what they started, and what carries its marker."""
        leader = self._record.pid
        mine = {pid: one for pid, one in seen.items() if leader in (one.group, one.session)}
        others = {
            pid: one
            for pid, one in seen.items()
            if pid not in mine and one.started >= self._record.start_time and (pid, one.started) not in self._strangers
        }
        for pid, one in others.items():
            if one.parent in mine or orphan_reaper.is_marked(pid, self._markers):
                mine[pid] = one
            else:
                self._strangers.add((pid, one.started))
        return mine


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names are all that is needed


def _look_at(pid: int) -> _Seen | None:
    fields = orphan_reaper.stat(pid)
    if not fields or int(fields[6]) & _KERNEL_THREAD:
        return None
    return _Seen(
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        started=int(fields[19]),
        ticks=sum(map(int, fields[11:15])),
        resident=int(fields[21]) * _PAGE,
    )


def _proportional(pid: int, resident: int) -> int:
    """What a process holds, its share of what it shares; *resident* where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123 - as for stat
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1_024
    return resident
