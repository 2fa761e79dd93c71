"""Samples of every process every few seconds: memory, descriptors, threads, children, zombies; and of the stores."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import redis

from tests.soak.servers import Servers

_MEGABYTE = 1 << 20
_NOTHING = SimpleNamespace(pss=0, uss=0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment. ``at``: seconds since the beginning; memory in MB; ``children`` with all of theirs.

    ``uss`` is what its end would free. Only that shows a leak: ``pss`` changes when other processes start and end, too.
    """

    at: float
    rss: float
    pss: float
    uss: float
    descriptors: int
    threads: int
    children: int
    children_uss: float
    zombies: int


@dataclass(slots=True)
class Life:
    """One process from its start to its end."""

    role: str
    pid: int
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The stores at one moment; None where one did not answer."""

    at: float
    redis_keys: int | None
    redis_mb: float | None
    database_mb: float | None
    backends: int | None
    backends_pss: float | None


class Sampler:
    """A thread that takes samples until it is stopped."""

    def __init__(self, servers: Servers, *, every: float) -> None:
        self._servers = servers
        self._every = every
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="sampling", daemon=True)
        self.lives: dict[tuple[str, int], Life] = {}
        self.surroundings: list[Surroundings] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        self._thread.join(timeout=30)

    def json(self) -> dict[str, Any]:
        """Return all samples."""
        return {
            "lives": [asdict(life) for life in self.lives.values()],
            "surroundings": [asdict(look) for look in self.surroundings],
        }

    def _loop(self) -> None:
        while not self._over.wait(self._every):
            at = time.monotonic() - self._began
            for role, pid in {**self._servers.pids(), "client": os.getpid()}.items():
                with suppress(psutil.Error):
                    sample = _sample(psutil.Process(pid), at, with_children=role != "client")
                    self.lives.setdefault((role, pid), Life(role, pid)).samples.append(sample)
            self.surroundings.append(self._look(at))

    def _look(self, at: float) -> Surroundings:
        keys = memory = database = backends = pss = None
        with suppress(redis.RedisError), self._servers.redis.client() as client:
            keys, memory = int(client.dbsize()), client.info("memory")["used_memory"] / _MEGABYTE
        with suppress(OSError, psycopg.Error, psutil.Error):
            database = self._servers.database_bytes() / _MEGABYTE
            result = self._servers.backends()
            backends, pss = len(result), sum(_memory(process).pss for process in result) / _MEGABYTE
        return Surroundings(at, keys, memory, database, backends, pss)


def _sample(process: psutil.Process, at: float, *, with_children: bool) -> Sample:
    children = process.children(recursive=True) if with_children else []
    zombies, living = 0, []
    for child in children:
        with suppress(psutil.Error):
            if child.status() == psutil.STATUS_ZOMBIE:
                zombies += 1
            else:
                living.append(child)
    with process.oneshot():
        memory = process.memory_full_info()
        return Sample(
            at=round(at, 1),
            rss=memory.rss / _MEGABYTE,
            pss=memory.pss / _MEGABYTE,
            uss=memory.uss / _MEGABYTE,
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            children=len(living),
            children_uss=sum(_memory(child).uss for child in living) / _MEGABYTE,
            # A stopped process cannot reap.
            zombies=0 if process.status() == psutil.STATUS_STOPPED else zombies,
        )


def _memory(process: psutil.Process) -> Any:
    """Return its memory in bytes; none for one that has just ended."""
    try:
        return process.memory_full_info()
    except psutil.Error:
        return _NOTHING
