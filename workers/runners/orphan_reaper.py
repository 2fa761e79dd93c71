"""Finds and kills what a job left running, on Linux: by process group, environment marker, tag. Standard library only.

A process leaves its group with setsid(), but its environment goes with it: every process that a job starts carries the
job's ``NAME=value`` marker in /proc/PID/environ. One that clears its environment as well still has the tag: a number in
a limit that means nothing to it (RLIMIT_RTTIME), and that whatever it starts inherits. What escapes is a process that
does away with all three on purpose; against that only a container helps.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

_PROC = "/proc"
_CHUNK = 1 << 17
_EXEC_PATIENCE = 1.0
_EXEC_PAUSE = 0.001
_LATE_ROUNDS = 10
_DEAD = (b"Z", b"X", b"x")
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD among the flags, the ninth field of stat
_ENV_END = 48  # field 51 of stat, counted from the third: 0 until exec has set the environment up

_TAGGED = 1 << 62  # microseconds: longer than any computer will run, and not without an end
_WORKER_BITS, _JOB_BITS = 30, 32

_kernel_threads: set[int] = set()  # remembered, because there are many and none of them is ever ours


class ProcessTag(NamedTuple):
    """A number that processes carry in a limit: those of its bits that *mask* names."""

    mask: int
    value: int


def worker_tag(marker: str) -> ProcessTag:
    """What all processes carry that the worker of that marker has started, and all that these started."""
    mask = _TAGGED | ((1 << _WORKER_BITS) - 1) << _JOB_BITS
    return ProcessTag(mask, _TAGGED | (zlib.crc32(os.fsencode(marker)) << _JOB_BITS) & mask)


def job_tag(worker: ProcessTag, number: int) -> ProcessTag:
    """The same of one of its jobs: the one with that number, of the last four thousand million."""
    jobs = (1 << _JOB_BITS) - 1
    return ProcessTag(worker.mask | jobs, worker.value | number & jobs)


starting = threading.Lock()
"""Held by whoever starts a process, so that it inherits no other's tag."""


def carry_none() -> None:
    """Before this process becomes another program, whatever its threads do."""
    starting.acquire(timeout=1)
    drop_tag()


def drop_tag() -> None:
    """Take this process's own tag off, so that what it starts has none."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        most = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        resource.setrlimit(resource.RLIMIT_RTTIME, (most, most))


@contextlib.contextmanager
def inherited(tag: ProcessTag) -> Iterator[None]:
    """What is started meanwhile carries the tag, and all that it starts. Put on later, some of these might lack it."""
    with starting:
        try:
            before = resource.getrlimit(resource.RLIMIT_RTTIME)
            resource.setrlimit(resource.RLIMIT_RTTIME, (tag.value, before[1]))
        except (OSError, ValueError, AttributeError):  # the system has no such limit, or allows none
            yield
            return
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_RTTIME, before)


def start_time(pid: int) -> int | None:
    """When *pid* started, in clock ticks since boot; None when there is no such process."""
    fields = stat(pid)
    return int(fields[19]) if fields else None


def is_running(pid: int) -> bool:
    """Whether *pid* exists and is more than a zombie."""
    fields = stat(pid)
    return bool(fields) and fields[0] not in _DEAD


def find(
    markers: Sequence[bytes | ProcessTag], *, group: int | None = None, born_after: int | None = None
) -> list[int]:
    """Pids of live processes in *group*, with an environment entry that begins with one of *markers*, or with a tag.

    ``born_after``: only processes whose pid was handed out after that one's. Right for jobs so short that the numbers
    cannot have gone round, and much cheaper on a busy host.
    """
    own = os.getpid()
    wanted = _handed_out_after(born_after) if born_after is not None else None
    found, undecided = [], []
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are all that is needed, of every process
        if not name.isdigit():
            continue
        pid = int(name)
        if pid == own or (wanted is not None and not wanted(pid)):
            continue
        if group is not None and _group_of(pid) == group and is_running(pid):
            found.append(pid)
            continue
        carries = is_marked(pid, markers)
        if carries:
            found.append(pid)
        elif carries is None and pid not in _kernel_threads:
            undecided.append(pid)
    return found + [pid for pid in undecided if _carries_in_a_moment(pid, markers)]


def kill_all(
    markers: Sequence[bytes | ProcessTag],
    *,
    group: int | None = None,
    born_after: int | None = None,
    patience: float = 2.0,
) -> int:
    """SIGKILL everything that ``find`` finds, until nothing is found or *patience* (seconds) is used up.

    Returns how many processes were hit.
    """
    deadline = time.monotonic() + patience
    hit: set[int] = set()
    since, rounds = born_after, 0
    while time.monotonic() < deadline:
        newest = _newest_pid()
        pids = find(markers, group=group, born_after=since)
        if group is not None:
            signal_group(group, signal.SIGKILL)
        if pids:
            hit.update(pids)
            signal_each(
                pids, signal.SIGKILL, lambda pid: _group_of(pid) == group or is_marked(pid, markers) is not False
            )
            _wait_for(pids, deadline)
            since = born_after
        elif newest is not None and _newest_pid() != newest and rounds < _LATE_ROUNDS:
            # Somebody was born during the search: to one of ours, perhaps, that had died when its turn came.
            since, rounds = newest, rounds + 1
        else:
            break
    return len(hit)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group; nothing happens when it is empty or not ours to touch."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def signal_each(pids: Iterable[int], number: int, still_ours: Callable[[int], bool]) -> None:
    """Signal processes one by one, through a pidfd, so that a pid that was reused meanwhile is not hit."""
    for pid in pids:
        handle = open_pidfd(pid)
        try:
            if not still_ours(pid):
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if handle is None:
                    os.kill(pid, number)
                else:
                    signal.pidfd_send_signal(handle, number)
        finally:
            if handle is not None:
                os.close(handle)


def open_pidfd(pid: int) -> int | None:
    """A descriptor that turns readable when *pid* exits; None when it is gone, or the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _wait_for(pids: Iterable[int], deadline: float) -> None:
    waiter = select.poll()
    handles = []
    for pid in pids:
        handle = open_pidfd(pid)
        if handle is not None:
            handles.append(handle)
            waiter.register(handle, select.POLLIN)
        elif is_running(pid):
            time.sleep(0.005)  # no pidfd on this system: the only way left is to look again
    pending = len(handles)
    while pending:
        left = deadline - time.monotonic()
        ready = waiter.poll(max(left, 0) * 1000)
        if not ready:
            break
        for handle, _ in ready:
            waiter.unregister(handle)
            pending -= 1
    for handle in handles:
        os.close(handle)


def stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on (the third), or nothing."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - hot, and no Path is needed
            return file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return []


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def is_marked(pid: int, markers: Sequence[bytes | ProcessTag]) -> bool | None:
    """Whether *pid* has one of the markers; None when it shows no environment at all."""
    if any(_is_tagged(pid, marker) for marker in markers if isinstance(marker, ProcessTag)):
        return True
    try:
        handle = os.open(f"{_PROC}/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        data = b"\0" + os.read(handle, _CHUNK)
        while chunk := os.read(handle, _CHUNK):
            data += chunk
    except OSError:
        return False
    finally:
        os.close(handle)
    if len(data) == 1:
        return None
    return any(b"\0" + marker in data for marker in markers if isinstance(marker, bytes))


def _is_tagged(pid: int, tag: ProcessTag) -> bool:
    try:
        found = resource.prlimit(pid, resource.RLIMIT_RTTIME)[0]
    except (OSError, AttributeError):
        return False
    return found > 0 and found & tag.mask == tag.value and is_running(pid)


def _carries_in_a_moment(pid: int, markers: Sequence[bytes | ProcessTag]) -> bool:
    """The same for a process that shows no environment, which one in the middle of exec will have in a moment."""
    deadline = time.monotonic() + _EXEC_PATIENCE
    while True:
        fields = stat(pid)
        if not fields or fields[0] in _DEAD:
            return False
        if int(fields[6]) & _KERNEL_THREAD:
            _kernel_threads.add(pid)
            return False
        if (carries := is_marked(pid, markers)) is not None:
            return carries
        if int(fields[_ENV_END]) or time.monotonic() >= deadline:
            return False  # it has an environment, with nothing in it
        time.sleep(_EXEC_PAUSE)


def _newest_pid() -> int | None:
    """The pid that was handed out last."""
    try:
        with open(f"{_PROC}/loadavg", "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return int(file.read(128).split()[4])
    except (OSError, IndexError, ValueError):
        return None


def _handed_out_after(first: int) -> Callable[[int], bool] | None:
    """A test for pids handed out after *first*; they are given in turn, and begin again at the end of the range."""
    last = _newest_pid()
    if last is None:
        return None
    if last >= first:
        return lambda pid: first < pid <= last
    return lambda pid: pid > first or pid <= last
