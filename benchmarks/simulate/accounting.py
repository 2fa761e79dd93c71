"""What one step used, by the kernel and the database: CPU seconds by process, commits, bytes of log, trips."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import event

from benchmarks.simulate.times import PARTS, Cost, Operation
from coordination.store.engine import Store

_NANO = 1e-9


def cpu_of(pid: int) -> float:
    """CPU seconds of all threads of a process so far, to the microsecond; 0 when it is gone."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[0])
        except (OSError, ValueError):  # it ended
            continue
    return total * _NANO


@dataclass(slots=True)
class Accounts:
    """Reads the counters of this process, which is the one that works, of its interpreters, and of both servers."""

    store: Store
    database_url: str
    redis_pid: int
    postmaster: int
    _statements: int = 0

    def count_trips(self) -> None:
        """From now on each statement of the store in this process counts, and begin and commit."""
        engine = self.store._write_engine  # noqa: SLF001 - the reading one passes its events on to it
        event.listen(engine, "before_cursor_execute", self._count_one)
        event.listen(engine, "begin", self._count_two)

    def _count_one(self, *_: object) -> None:
        self._statements += 1

    def _count_two(self, *_: object) -> None:
        self._statements += 2  # BEGIN and COMMIT are trips of their own

    def used(self, acts: Sequence[Callable[[], object]]) -> dict[str, float]:
        """What one of *acts* used, as the mean of all."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            position = _position(connection)
            began, before = self._cpu_of_children(), self._cpu()
            for act in acts:
                act()
            after, ended = self._cpu(), self._cpu_of_children()  # before anything else that uses some
            position = [late - early for late, early in zip(_position(connection), position, strict=True)]
        used = {part: after[part] - before[part] for part in after} | dict(
            zip(("commits", "log"), position, strict=True)
        )
        used["child"] = sum(seconds - began.get(pid, 0.0) for pid, seconds in ended.items())
        return {part: max(0.0, used[part]) / len(acts) for part in PARTS}

    def _cpu(self) -> dict[str, float]:
        """CPU seconds so far by part, and trips."""
        servers = [self.postmaster, *(child.pid for child in psutil.Process(self.postmaster).children())]
        return {
            "database": sum(map(cpu_of, servers)),
            "redis": cpu_of(self.redis_pid),
            "trips": float(self._statements),
            "worker": time.process_time(),
        }

    def _cpu_of_children(self) -> dict[int, float]:
        """CPU seconds of the interpreters, and whatever else we have started, by pid."""
        servers = {self.redis_pid, self.postmaster, *(one.pid for one in psutil.Process(self.postmaster).children())}
        children = {child.pid for child in psutil.Process().children(recursive=True)} - servers
        return {pid: cpu_of(pid) for pid in children}


def _position(connection: psycopg.Connection) -> list[float]:
    """How many transactions have written so far, and how many bytes the log is long."""
    row = connection.execute(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
        " pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    ).fetchone()
    assert row is not None
    return [float(value) for value in row]


def fitted(found: dict[int, dict[str, float]]) -> Operation:
    """The straight line through what was used by the smallest and by the largest size, part by part."""
    small, large = min(found), max(found)
    operation = Operation()
    for part in PARTS:
        low, high = found[small][part], found[large][part]
        each = max(0.0, (high - low) / (large - small)) if large > small else 0.0
        operation = replace(operation, **{part: Cost(max(0.0, low - each * small), each)})
    return operation
