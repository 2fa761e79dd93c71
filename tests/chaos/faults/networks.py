"""Faults of the network between a worker and its servers: refused, lost, dropped, reset, slow; one or both."""

from __future__ import annotations

from typing import ClassVar

from tests.chaos.faults.base import Fault, Hit, Later
from tests.chaos.stack import LEASE, Stack, Worker


class _Network(Fault):
    mode: ClassVar[str]
    lines: ClassVar[tuple[str, ...]]

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.postgres is not None or "sql" not in cls.lines

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        worker = self.worker(stack)
        return None if worker is None else self._on(worker, stack)

    def _on(self, worker: Worker, stack: Stack) -> Hit | None:
        if any(worker.modes[line] != "pass" for line in self.lines):
            return None
        for line in self.lines:
            worker.network(line, self.mode)

        def heal() -> None:
            for line in self.lines:
                worker.network(line, "pass")

        hurts = self.duration > LEASE / 2 and "sql" in self.lines and worker.pid is not None
        victims = {worker.pid} if hurts and worker.pid is not None else set()
        return Hit(f"{worker.name} for {self.duration:.2f} s", victims, heal)


class SqlReset(_Network):
    """Every connection of a worker to SQL is reset."""

    name, weight, mode, lines = "connections to SQL reset", 10, "reset", ("sql",)


class RedisReset(_Network):
    """Every connection of a worker to Redis is reset."""

    name, weight, mode, lines = "connections to Redis reset", 8, "reset", ("redis",)


class SqlRefused(_Network):
    """A worker cannot connect to SQL for a moment."""

    name, weight, mode, lines, lasts = "SQL refused", 5, "refuse", ("sql",), (0.1, 2.0)


class RedisRefused(_Network):
    """A worker cannot connect to Redis for a while."""

    name, weight, mode, lines, lasts = "Redis refused", 2.5, "refuse", ("redis",), (0.1, 5.0)


class BothRefused(_Network):
    """A worker can connect to nothing for a while."""

    name, weight, mode, lines, lasts, gap = "SQL and Redis refused", 2, "refuse", ("sql", "redis"), (0.5, 8.0), 20.0


class SqlCutOff(_Network):
    """Bytes to and from SQL vanish, for longer than a lease."""

    name, weight, mode, lines, lasts, gap = "cut off from SQL", 1.5, "hole", ("sql",), (LEASE + 1, LEASE + 6), 25.0


class SqlStutters(_Network):
    """Bytes to and from SQL are late by a second or two."""

    name, weight, mode, lines, lasts = "SQL does not answer for a moment", 4, "hole", ("sql",), (0.1, 2.0)


class RedisCutOff(_Network):
    """Bytes to and from Redis vanish."""

    name, weight, mode, lines, lasts = "cut off from Redis", 1.5, "hole", ("redis",), (0.5, LEASE + 6)


class BothCutOff(_Network):
    """A worker's connections deliver nothing, for longer than a lease."""

    name, weight, mode, lines, lasts, gap = (
        "cut off from both",
        1,
        "hole",
        ("sql", "redis"),
        (LEASE + 1, LEASE + 6),
        20.0,
    )


class SqlRefusedForMinutes(SqlRefused):
    """A worker cannot connect to SQL for minutes; the other workers continue."""

    name, weight, lasts, gap = "SQL refused for minutes", 0.3, (60.0, 150.0), 240.0


class RedisRefusedForMinutes(RedisRefused):
    """A worker cannot connect to Redis for minutes; the other workers continue."""

    name, weight, lasts, gap = "Redis refused for minutes", 0.3, (60.0, 150.0), 240.0


class _Dropped(_Network):
    """The kernel drops every packet, of open connections and of new ones, with the kernel's own TCP behaviour."""

    mode = "drop"

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.namespaces and super().possible(stack)


class SqlDropped(_Dropped):
    """Packets to and from SQL are dropped, for a moment or longer than a lease."""

    name, weight, lines, lasts, gap = "packets to SQL dropped", 2, ("sql",), (0.2, LEASE + 6), 15.0


class RedisDropped(_Dropped):
    """Packets to and from Redis are dropped."""

    name, weight, lines, lasts = "packets to Redis dropped", 2, ("redis",), (0.2, LEASE + 6)


class BothDropped(_Dropped):
    """The worker's network is gone, for longer than a lease."""

    name, weight, lines, lasts, gap = "network gone", 1, ("sql", "redis"), (LEASE + 1, LEASE + 10), 20.0


class SlowNetwork(_Network):
    """Every chunk takes a tenth of a second more."""

    name, weight, mode, lines, lasts = "slow network", 2, "slow", ("sql", "redis"), (0.5, 4.0)


class EverybodyRefused(_Network):
    """No worker can connect to SQL, for longer than a lease."""

    name, weight, gap, lasts, broad = "SQL refused to all", 0.4, 60.0, (LEASE, LEASE + 8), True
    mode, lines = "refuse", ("sql",)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        hits = [hit for worker in stack.workers if (hit := self._on(worker, stack)) is not None]
        if not hits:
            return None

        def heal() -> None:
            for hit in hits:
                if hit.heal is not None:
                    hit.heal()

        return Hit(f"{len(hits)} workers for {self.duration:.2f} s", set().union(*(hit.victims for hit in hits)), heal)


KINDS: tuple[type[Fault], ...] = (
    *(SqlReset, RedisReset, SqlRefused, RedisRefused, BothRefused, SqlCutOff, SqlStutters, RedisCutOff, BothCutOff),
    *(SlowNetwork, EverybodyRefused, SqlRefusedForMinutes, RedisRefusedForMinutes),
    *(SqlDropped, RedisDropped, BothDropped),
)
