"""Where the time of a no-op goes: the CPU of every process that has to do with it, ours and Celery's side by side.

Not part of a full run: ``python -m benchmarks account``. What runs inside our worker is divided by the worker itself
(see ``altered``), which costs it a little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psutil

from benchmarks.altered import ACCOUNT
from benchmarks.bench import STORES, Bench, OurStack
from benchmarks.flow import no_ops
from benchmarks.measure import series
from benchmarks.report import Line
from benchmarks.running import server_pids

_SETTLED = 0.8  # seconds until the worker has written its account down


def measure(bench: Bench) -> list[Line]:
    """Microseconds of CPU a task, by process and inside our worker; and microseconds by the clock."""
    count = bench.size(5000)
    lines = []
    for kind in STORES:
        file = bench.folder / f"account-{kind}.json"
        stack = bench.warm_stack(kind, database=4, extra={ACCOUNT: str(file)})
        try:
            lines += _lines(bench, f"ours on {kind}", count, partial(_ours, bench, stack, count, file))
        finally:
            stack.close()
    if peer := bench.peers("celery").get("celery"):
        lines += _lines(bench, "celery", count, lambda: _theirs(bench, peer.pids, lambda: peer.no_ops(count)))
    return lines


def _lines(bench: Bench, where: str, count: int, once: Callable[[], Mapping[str, float]]) -> list[Line]:
    rounds = [once() for _ in range(bench.rounds)]
    return [
        Line(what, where, series([found.get(what, 0.0) / count * 1e6 for found in rounds], "µs a task"))
        for what in rounds[0]
    ]


def _ours(bench: Bench, stack: OurStack, count: int, file: Path) -> dict[str, float]:
    pid = stack.workers[0].pid
    servers = server_pids(bench, stack) if stack.kind == "postgresql" else server_pids(bench)
    before, began = _inside(file), _by_process(pid, servers)
    by_clock = stack.seconds(no_ops(count))
    after, ended = _inside(file), _by_process(pid, servers)
    spent = {what: ended[what] - began.get(what, 0.0) for what in ended}
    inside = {f"worker: {what}": after[what] - before.get(what, 0.0) for what in sorted(after)}
    inside["worker: everything else"] = max(spent["worker"] - sum(inside.values()), 0.0)
    names = {"children": "warm interpreters", "Redis": "Redis", "PostgreSQL": "PostgreSQL"}
    return {
        "by the clock, from submission to the last end": by_clock,
        "client: submission, waiting": spent["client"],
        **dict(sorted(inside.items(), key=lambda item: -item[1])),
        **{shown: spent[name] for name, shown in names.items() if name in spent},
    }


def _theirs(bench: Bench, pids: list[int], run: Callable[[], float]) -> dict[str, float]:
    began = _by_process(pids[0], server_pids(bench))
    by_clock = run()
    ended = _by_process(pids[0], server_pids(bench))
    spent = {what: ended[what] - began[what] for what in ended}
    return {
        "by the clock, from submission to the last end": by_clock,
        "client: submission, waiting": spent["client"],
        "worker: its parent process": spent["worker"],
        "its two prefork children": spent["children"],
        "Redis": spent["Redis"],
    }


def _inside(file: Path) -> dict[str, float]:
    time.sleep(_SETTLED)
    return {what: float(seconds) for what, seconds in json.loads(file.read_text(encoding="utf-8")).items()}


def _by_process(worker: int, servers: Mapping[str, int]) -> dict[str, float]:
    """Seconds of CPU so far."""
    root = psutil.Process(worker)
    found = {
        "client": time.process_time(),
        "worker": _seconds(root),
        "children": sum(map(_seconds, root.children(recursive=True))) + _of_the_gone(root),
    }
    for name, pid in servers.items():
        server = psutil.Process(pid)
        found[name] = _seconds(server) + sum(map(_seconds, server.children())) + _of_the_gone(server)
    return found


def _seconds(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def _of_the_gone(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.children_user + used.children_system)
