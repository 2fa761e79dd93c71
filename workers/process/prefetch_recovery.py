"""Idle slots claim tasks whose message is stuck in a busy worker's prefetch buffer.

Celery prefetches more messages than it has free slots. While the queue is empty, a task that was enqueued and not
claimed for two seconds is in such a buffer or its message is lost; a worker with a free slot claims it from SQL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta

import redis
import structlog

from coordination.base.errors import CoordinationError
from coordination.store.queries.fleet import workers
from workers.broker import queues
from workers.context import Context

log = structlog.get_logger()

PREFETCHED_AFTER = timedelta(seconds=2)
_POLL = 1.0


class PrefetchRecovery:
    """One thread that polls every second. *free* returns the number of free slots; *work_off* claims and runs tasks."""

    def __init__(
        self, context: Context, *, free: Callable[[], int], work_off: Callable[[str, Sequence[str]], None]
    ) -> None:
        self._context = context
        self._free = free
        self._work_off = work_off
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coord-spare", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Jobs that it started continue."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def poll(self) -> int:
        """Try to run as many stuck tasks as there are free slots. Return how many were tried."""
        context = self._context
        free = self._free()
        if free <= 0 or context.draining.is_set() or context.wakeups.client.llen(queues.PREFIX + queues.JOBS):
            return 0
        with context.store.read() as tx:
            stuck = workers.list_unclaimed(
                tx, enqueued_before=PREFETCHED_AFTER, limit=free, workspaces=context.workspaces
            )
        for workspace_id, task_id in stuck:
            job = threading.Thread(
                target=self._run_safely, args=(workspace_id, task_id), name=f"coord-spare-{task_id}", daemon=True
            )
            job.start()
        return len(stuck)

    def _run_safely(self, workspace_id: str, task_id: str) -> None:
        try:
            self._work_off(workspace_id, [task_id])
        except CoordinationError as error:
            log.warning("a prefetched task was not recovered", why=error.message)
        except Exception:
            log.exception("a prefetched task was not recovered")

    def _loop(self) -> None:
        while not self._ended.wait(_POLL):
            try:
                self.poll()
            except (redis.RedisError, CoordinationError) as error:
                log.debug("prefetched tasks were not polled", why=str(error))
            except Exception:
                log.exception("prefetched tasks were not polled")  # the loop must continue
