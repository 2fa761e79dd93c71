"""Time from the message to the running process, on an idle worker.

One task at a time is submitted; it is a shell job, or an agent's program, that prints the time as soon as it runs
(``date``). Redis' MONITOR shows when the submission, right after its commit, sent its first message, and when a message
came into the queue of jobs. The measurement ends inside the job: the start of the shell and of ``date`` count, so it
is an upper bound. All clocks are this machine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any, Self

import redis

from benchmarks import goals
from benchmarks.bench import STORES, Bench, OurStack
from benchmarks.measure import percentile, series
from benchmarks.report import Line
from coordination import Task
from coordination.store.redis.wakeups import WAKEUPS
from workers.broker import queues

_JOB_QUEUE = queues.PREFIX + queues.JOBS
_SIGNALS = {"message": {_JOB_QUEUE}, "submission committed": {_JOB_QUEUE, WAKEUPS}}
"""By what is measured from: the lists in Redis whose first message it is."""

_JOBS: dict[str, dict[str, Any]] = {
    "process": {"shell": "exec date +%s.%N"},
    "agent's process": {"agent": "custom", "prompt": "What time is it?", "command": ["date", "+%s.%N"]},
}
"""Jobs that print the time as soon as they run."""

_PAUSE = 0.05  # seconds until the worker sleeps again


def measure(bench: Bench) -> list[Line]:
    """Milliseconds, the median of each round, and what 99 of 100 stayed under in all rounds."""
    count = bench.size(70)
    taken: dict[tuple[str, str, str], list[list[float]]] = {
        (what, job, kind): [] for job in _JOBS for what in _SIGNALS for kind in STORES
    }
    with _Messages(bench) as messages:
        for _ in range(bench.rounds):
            for (kind, stack), (job, work) in product(bench.ours.items(), _JOBS.items()):
                _once(stack, work)
                intervals = [_once(stack, work) for _ in range(count)]
                for what, keys in _SIGNALS.items():
                    times = [(messages.first(keys, began, ran), ran) for began, ran in intervals]
                    taken[what, job, kind].append([(ran - at) * 1000 for at, ran in times if at is not None])
    return [line for (what, job, kind), rounds in taken.items() for line in _lines(f"{what} to {job}", kind, rounds)]


def _lines(what: str, kind: str, rounds: Sequence[Sequence[float]]) -> list[Line]:
    values = [value for each in rounds for value in each]
    if not values:
        return [Line(f"{what} started", kind, None, note="no such message was sent for these tasks")]
    medians = series([percentile(each, 0.5) for each in rounds if each], "ms")
    worst = series([percentile(values, 0.99)], "ms")
    return [
        Line(f"{what} started, p50", kind, medians, goal=goals.WAKEUP_P50),
        Line(f"{what} started, p99 of {len(values)}", kind, worst, goal=goals.WAKEUP_P99),
    ]


def _once(stack: OurStack, work: dict[str, Any]) -> tuple[float, float]:
    """Return when the submission began, and when the task's process ran (seconds since 1970)."""
    began = time.time()
    run = stack.submit([Task("now", work)], project="wakeup")
    stack.end_of(run)
    ran = float(run.task("now").output)
    time.sleep(_PAUSE)
    return began, ran


class _Messages:
    """Records when a message is put into one of our lists in Redis."""

    def __init__(self, bench: Bench) -> None:
        self._client = redis.Redis(unix_socket_path=str(bench.redis.socket))
        self._received: list[tuple[float, str]] = []
        self._over = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def first(self, keys: Collection[str], after: float, before: float) -> float | None:
        """Return when the first message came to one of *keys* between these moments."""
        return next((at for at, key in self._received if key in keys and after <= at <= before), None)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(10):
            raise SystemExit("Redis did not answer to MONITOR")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._client.ping()  # a command that ends the wait
        self._thread.join(10)
        self._client.close()

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._listening.set()
            while not self._over.is_set():
                command: dict[str, Any] = monitor.next_command()
                words = command["command"].split(maxsplit=2)
                if words[0].upper() in {"LPUSH", "RPUSH"}:
                    self._received.append((float(command["time"]), words[1]))
