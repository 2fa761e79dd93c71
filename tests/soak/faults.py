"""Simple faults, one after the other in shuffled rounds; each has healed before the next one comes."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import psycopg
import redis

from tests.soak.servers import BEAT, HURT, LEASE_SECONDS, STAYS, Servers

_GONE = timedelta(seconds=60)


class Faults:
    """A thread that injects a fault every *every* seconds."""

    def __init__(self, servers: Servers, *, every: float, seed: int) -> None:
        self._servers = servers
        self._every = every
        self._random = random.Random(seed + 1)  # noqa: S311 - an order, no secret
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="faults", daemon=True)
        self.done: Counter[str] = Counter()
        self.broken: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the present one, and end."""
        self._over.set()
        self._thread.join(timeout=120)

    def _loop(self) -> None:
        kinds: list[Callable[[], None]] = [
            self.worker_killed,
            self.worker_restarted,
            self.worker_stopped_past_its_lease,
            self.worker_stopped_for_a_moment,
            self.beat_killed,
            self.redis_flushed,
            self.redis_clients_cut,
            self.redis_restarted,
        ]
        if self._servers.on_postgres:
            kinds.append(self.postgres_sessions_ended)
        due = time.monotonic()
        while True:
            for kind in self._random.sample(kinds, len(kinds)):
                due += self._every
                if self._over.wait(max(0.0, due - time.monotonic())):
                    return
                try:
                    kind()
                except BaseException as error:  # noqa: BLE001 - reported by the caller
                    self.broken = error
                    return
                self.done[kind.__name__.replace("_", " ")] += 1

    def worker_killed(self) -> None:
        """SIGKILL; another one starts."""
        self._servers.running[HURT].kill()
        time.sleep(1)
        self._servers.start(HURT)

    def worker_restarted(self) -> None:
        """SIGTERM, as a rolling restart does."""
        self._servers.running[HURT].stop(within=_GONE)
        self._servers.start(HURT)

    def worker_stopped_past_its_lease(self) -> None:
        """SIGSTOP for longer than a lease."""
        self._pause(HURT, LEASE_SECONDS + 3)

    def worker_stopped_for_a_moment(self) -> None:
        """SIGSTOP for less than a lease."""
        self._pause(STAYS, LEASE_SECONDS / 3)

    def beat_killed(self) -> None:
        """SIGKILL; another one starts."""
        self._servers.running[BEAT].kill()
        self._servers.start(BEAT)

    def redis_flushed(self) -> None:
        """Delete everything in it."""
        self._servers.redis.flush()

    def redis_clients_cut(self) -> None:
        """Every connection is closed by the server."""
        with self._servers.redis.client() as client, suppress(redis.RedisError):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def redis_restarted(self) -> None:
        """SIGKILL; three seconds later it is back, empty."""
        self._servers.redis.stop(signal.SIGKILL)
        time.sleep(3)
        self._servers.redis.start()

    def postgres_sessions_ended(self) -> None:
        """Every session of our database is terminated."""
        with suppress(psycopg.OperationalError), self._servers.admin() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self._servers.database]
            )

    def _pause(self, role: str, seconds: float) -> None:
        process = self._servers.running[role]
        process.signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.signal(signal.SIGCONT)
