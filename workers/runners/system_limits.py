"""Limits that the kernel enforces for each process of a job: open files and processor time."""

from __future__ import annotations

import math
import resource
import signal
from collections.abc import Sequence
from datetime import timedelta

from coordination.domain.jobs.resource_limits import Limits

_LAST_WORDS = 5  # seconds of processor time between the signal that can be handled and the one that cannot


def cpu_sentence(cpu: timedelta) -> str:
    """Return the error of a job that used all its processor time."""
    return f"used more than its {cpu.total_seconds():g} s of processor time"


def ran_out_of_cpu(exit_code: int | None) -> bool:
    """Return whether a process, or the command of a shell, ended because of its limit of processor time."""
    return exit_code in (-signal.SIGXCPU, 128 + signal.SIGXCPU)


def add_limits(arguments: Sequence[str], limits: Limits) -> Sequence[str]:
    """Return a command that sets the limits and then executes *arguments*.

    A shell sets them, because Python code must not run between fork and exec in a process with threads.
    """
    orders = []
    if limits.files is not None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = limits.files if most == resource.RLIM_INFINITY else min(limits.files, most)
        orders.append(f"ulimit -S -n {files} && ulimit -H -n {files}")
    if limits.cpu is not None:
        seconds = math.ceil(limits.cpu.total_seconds())
        # The soft limit sends SIGXCPU, which identifies the cause; the hard limit sends SIGKILL.
        orders.append(f"ulimit -S -t {seconds} && ulimit -H -t {seconds + _LAST_WORDS}")
    if not orders:
        return arguments
    return ["/bin/sh", "-c", f'{" && ".join(orders)} && exec "$@"', "sh", *arguments]
