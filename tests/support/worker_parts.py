"""The parts of a worker process, wired in this process on a real store and a real Redis; no thread is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.support.apps import app_of, worker_settings
from tests.support.world import World
from workers.broker.publisher import CeleryPublisher
from workers.context import make_context
from workers.engine import executor
from workers.maintenance import supervisor_loop
from workers.runners.registry import Runners


class WorkerParts:
    """A context, an executor and a supervisor loop, and a world whose claims are this worker's."""

    def __init__(self, store_url: str, redis_url: str, folder: Path) -> None:
        self._open = ExitStack()
        settings = worker_settings(store_url, redis_url, folder)
        self.app = self._open.enter_context(app_of(settings))
        self.context = make_context(settings, name="worker", slots=2, publisher=partial(CeleryPublisher, self.app))
        self.loop_module, self.executor_module = supervisor_loop, executor
        self.runners = Runners()
        self.supervisor_loop = supervisor_loop.SupervisorLoop(self.context)
        self.executor = executor.Executor(self.context, self.runners, self.supervisor_loop)
        self.world = World(self.context.store)
        self.world.worker = self.world.register(self.context.worker_id)

    def queued_messages(self) -> int:
        """Return the number of messages in the queue of jobs."""
        return int(self.context.wakeups.client.llen("coord:jobs"))

    def close(self) -> None:
        """Close what the parts have opened."""
        self.executor.close()
        self.runners.close()
        self.context.scratch_dir.close()
        self.context.wakeups.close()
        self.context.store.close()
        self._open.close()


@contextmanager
def worker_parts(store_url: str, redis_url: str, folder: Path) -> Iterator[WorkerParts]:
    """Wire the parts, and close them at the end of the block."""
    parts = WorkerParts(store_url, redis_url, folder)
    try:
        yield parts
    finally:
        parts.close()
