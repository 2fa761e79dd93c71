"""Dramatiq on Redis: two processes of eight threads, no results, acknowledging late."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks.peers import PATIENCE, Place
from benchmarks.places import ROOT
from tests.support.processes import Process


class Peer:
    """Dramatiq as its documentation has it."""

    about = "two processes of eight threads on Redis, no results"

    def __init__(self, place: Place) -> None:
        environment = {"BENCH_CLIENT": place.redis_url(), "PYTHONPATH": str(ROOT)}
        os.environ.update(environment)
        self._app = import_module("benchmarks.peers.dramatiq_app")  # reads where its Redis is
        self._keys = (f"done-{number}" for number in itertools.count())
        argv = [sys.executable, "-m", "dramatiq", "benchmarks.peers.dramatiq_app", "-p", "2", "-t", "8"]
        self._worker = Process(argv, env=environment, cwd=place.folder)
        self._until_over(self._app.over.send)

    def no_ops(self, count: int) -> float:
        """Seconds from the first message sent to the last one acknowledged."""
        nothing, broker = self._app.nothing, self._app.broker
        began = time.perf_counter()
        for _ in range(count):
            nothing.send()
        broker.join("default", interval=5, timeout=int(PATIENCE * 1000))
        return time.perf_counter() - began

    def chain(self, count: int) -> float:
        """Dramatiq's own pipeline."""
        import dramatiq

        nothing, over = self._app.nothing, self._app.over

        def send(key: str) -> None:
            last = over.message_with_options(args=(key,), pipe_ignore=True)
            middle = [nothing.message_with_options(pipe_ignore=True) for _ in range(count - 1)]
            dramatiq.pipeline([*middle, last]).run()

        return self._until_over(send)

    def fan(self, count: int) -> float:
        """A task that runs a group with a completion callback."""
        return self._until_over(lambda key: self._app.first.send(key, count))

    def close(self) -> None:
        """Stop the worker."""
        self._worker.stop(within=timedelta(seconds=60))
        self._worker.close()
        self._app.broker.close()
        self._app.client.close()

    def _until_over(self, send: Callable[[str], Any]) -> float:
        key = next(self._keys)
        began = time.perf_counter()
        send(key)
        if self._app.client.blpop([key], timeout=PATIENCE) is None:
            raise SystemExit(f"Dramatiq did not finish:\n{self._worker.output[-2000:]}")
        return time.perf_counter() - began
