"""Limits that the system itself keeps for each process of a job: open files, and processor time."""

from __future__ import annotations

import math
import resource
import signal
from collections.abc import Sequence
from datetime import timedelta

from coordination.domain.jobs.resource_limits import Limits

_LAST_WORDS = 5  # seconds of processor time between the signal that can be handled and the one that cannot


def cpu_sentence(cpu: timedelta) -> str:
    """That a job used all its processor time."""
    return f"used more than its {cpu.total_seconds():g} s of processor time"


def ran_out_of_cpu(exit_code: int | None) -> bool:
    """Whether a process ended because of its limit, or was a shell whose command did."""
    return exit_code in (-signal.SIGXCPU, 128 + signal.SIGXCPU)


def limited(arguments: Sequence[str], limits: Limits) -> Sequence[str]:
    """The command that sets what the system itself can limit for each process, and then becomes *arguments*.

    A shell does it, because nothing of ours may run between fork and exec in a process with threads.
    """
    orders = []
    if limits.files is not None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = limits.files if most == resource.RLIM_INFINITY else min(limits.files, most)
        orders.append(f"ulimit -S -n {files} && ulimit -H -n {files}")
    if limits.cpu is not None:
        seconds = math.ceil(limits.cpu.total_seconds())
        # The first signal can be told apart from others; the second one, later, cannot be ignored.
        orders.append(f"ulimit -S -t {seconds} && ulimit -H -t {seconds + _LAST_WORDS}")
    if not orders:
        return arguments
    return ["/bin/sh", "-c", f'{" && ".join(orders)} && exec "$@"', "sh", *arguments]
