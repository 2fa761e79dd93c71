"""Find and kill processes that a job left, by process group, environment marker and tag. Linux, standard library only.

setsid() leaves the process group but keeps the environment: every process that a job starts has the job's
``NAME=value`` marker in /proc/PID/environ. A process that clears its environment still has the tag: a number in an
unused limit (RLIMIT_RTTIME), which children inherit. A process that removes all three on purpose escapes; only a
container prevents that.
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

_kernel_threads: set[int] = set()  # a cache: there are many, and none can be a job's


class ProcessTag(NamedTuple):
    """A number in a limit of processes. Only the bits of *mask* count."""

    mask: int
    value: int


def worker_tag(marker: str) -> ProcessTag:
    """Return the tag of all descendants of the worker with that marker."""
    mask = _TAGGED | ((1 << _WORKER_BITS) - 1) << _JOB_BITS
    return ProcessTag(mask, _TAGGED | (zlib.crc32(os.fsencode(marker)) << _JOB_BITS) & mask)


def job_tag(worker: ProcessTag, number: int) -> ProcessTag:
    """Return the tag of one job of a worker. The number repeats after four thousand million jobs."""
    jobs = (1 << _JOB_BITS) - 1
    return ProcessTag(worker.mask | jobs, worker.value | number & jobs)


starting = threading.Lock()
"""Held while a process is started, so that it does not inherit another's tag."""


def drop_tag_before_exec() -> None:
    """Remove the tag before this process executes another program, even if a thread holds the lock."""
    starting.acquire(timeout=1)
    drop_tag()


def drop_tag() -> None:
    """Remove this process's own tag, so that its children have none."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        most = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        resource.setrlimit(resource.RLIMIT_RTTIME, (most, most))


@contextlib.contextmanager
def set_tag(tag: ProcessTag) -> Iterator[None]:
    """Give the tag to processes that are started during the block. Set later, it could miss their first children."""
    with starting:
        try:
            before = resource.getrlimit(resource.RLIMIT_RTTIME)
            resource.setrlimit(resource.RLIMIT_RTTIME, (tag.value, before[1]))
        except (OSError, ValueError, AttributeError):  # the system has no such limit, or does not allow to set it
            yield
            return
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_RTTIME, before)


def start_time(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot, or None when there is no such process."""
    fields = stat(pid)
    return int(fields[19]) if fields else None


def is_running(pid: int) -> bool:
    """Return whether *pid* exists and is not a zombie."""
    fields = stat(pid)
    return bool(fields) and fields[0] not in _DEAD


def find(
    markers: Sequence[bytes | ProcessTag], *, group: int | None = None, born_after: int | None = None
) -> list[int]:
    """Return pids of live processes in *group*, with an environment entry that starts with a marker, or with a tag.

    ``born_after``: only processes with newer pids than this one. Much cheaper on a busy host, but only correct for jobs
    so short that pids cannot have wrapped around.
    """
    own = os.getpid()
    is_newer = _newer_than(born_after) if born_after is not None else None
    pids, undecided = [], []
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are all that is needed, of every process
        if not name.isdigit():
            continue
        pid = int(name)
        if pid == own or (is_newer is not None and not is_newer(pid)):
            continue
        is_in_group = group is not None and group_of(pid) == group and is_running(pid)
        if is_in_group or (carries := is_marked(pid, markers)):
            pids.append(pid)
        elif carries is None and pid not in _kernel_threads:
            undecided.append(pid)
    return pids + [pid for pid in undecided if _is_marked_after_exec(pid, markers)]


def kill_all(
    markers: Sequence[bytes | ProcessTag],
    *,
    group: int | None = None,
    born_after: int | None = None,
    patience: float = 2.0,
) -> int:
    """Send SIGKILL to what ``find`` returns, until that is nothing or *patience* (seconds) is over.

    Returns how many processes were signaled.
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
                pids, signal.SIGKILL, lambda pid: group_of(pid) == group or is_marked(pid, markers) is not False
            )
            _wait_for(pids, deadline)
            since = born_after
        elif newest is not None and _newest_pid() != newest and rounds < _LATE_ROUNDS:
            # A process started during the search, perhaps a child of a job's process that has ended before its check.
            since, rounds = newest, rounds + 1
        else:
            break
    return len(hit)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it exists and permissions allow."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def signal_each(pids: Iterable[int], number: int, still_ours: Callable[[int], bool]) -> None:
    """Signal processes one by one through pidfds, so that a reused pid is not signaled."""
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
    """Return a descriptor that becomes readable when *pid* exits, or None if it has ended or pidfds are unsupported."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def wait_for_exits(handles: Iterable[int], deadline: float) -> set[int]:
    """Wait until all descriptors are readable or *deadline* (monotonic seconds) is over. Return those that are not."""
    pending, waiter = set(handles), select.poll()
    for handle in pending:
        waiter.register(handle, select.POLLIN)
    while pending and (ready := waiter.poll(max(deadline - time.monotonic(), 0) * 1000)):
        for handle, _ in ready:
            waiter.unregister(handle)
            pending.discard(handle)
    return pending


def _wait_for(pids: Iterable[int], deadline: float) -> None:
    handles = []
    for pid in pids:
        handle = open_pidfd(pid)
        if handle is not None:
            handles.append(handle)
        elif is_running(pid):
            time.sleep(0.005)  # no pidfds on this system: the caller checks again
    wait_for_exits(handles, deadline)
    for handle in handles:
        os.close(handle)


def stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third (the state) on, or an empty list."""
    try:
        with open(f"{_PROC}/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - hot, and no Path is needed
            return file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return []


def group_of(pid: int) -> int | None:
    """Return the process group of *pid*, or None when there is no such process."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def is_marked(pid: int, markers: Sequence[bytes | ProcessTag]) -> bool | None:
    """Return whether *pid* has one of the markers, or None when its environment is empty."""
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
        value = resource.prlimit(pid, resource.RLIMIT_RTTIME)[0]
    except (OSError, AttributeError):
        return False
    return value > 0 and value & tag.mask == tag.value and is_running(pid)


def _is_marked_after_exec(pid: int, markers: Sequence[bytes | ProcessTag]) -> bool:
    """Return whether *pid*, whose environment is empty, has a marker. In the middle of exec, it will have one soon."""
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
            return False  # exec is over, and the environment is empty
        time.sleep(_EXEC_PAUSE)


def _newest_pid() -> int | None:
    """Return the pid that was assigned last."""
    try:
        with open(f"{_PROC}/loadavg", "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return int(file.read(128).split()[4])
    except (OSError, IndexError, ValueError):
        return None


def _newer_than(first: int) -> Callable[[int], bool] | None:
    """Return a test for pids assigned after *first*. Pids are assigned in order and wrap around."""
    last = _newest_pid()
    if last is None:
        return None
    if last >= first:
        return lambda pid: first < pid <= last
    return lambda pid: pid > first or pid <= last
