"""Free slots look into the store: what was rung and sits in the buffer of a worker that is busy is claimed from SQL.

A worker fetches messages ahead of its slots, and nobody else can see those. While the queue is empty, a task that was
rung and not claimed for two seconds is either there or lost; whoever has a free slot takes it.
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
_LOOK = 1.0


class PrefetchRecovery:
    """One thread that looks every second. *free* says how many slots are; *work_off* claims and runs in its thread."""

    def __init__(
        self, context: Context, *, free: Callable[[], int], work_off: Callable[[str, Sequence[str]], None]
    ) -> None:
        self._context = context
        self._free = free
        self._work_off = work_off
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coord-spare", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that it began go on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def look(self) -> int:
        """Take what is parked elsewhere, as many tasks as there are free slots; how many were tried."""
        context = self._context
        free = self._free()
        if free <= 0 or context.draining.is_set() or context.nudges.client.llen(queues.PREFIX + queues.JOBS):
            return 0
        with context.store.read() as tx:
            parked = workers.parked(tx, enqueued_before=PREFETCHED_AFTER, limit=free, workspaces=context.workspaces)
        for workspace_id, task_id in parked:
            job = threading.Thread(
                target=self._guarded, args=(workspace_id, task_id), name=f"coord-spare-{task_id}", daemon=True
            )
            job.start()
        return len(parked)

    def _guarded(self, workspace_id: str, task_id: str) -> None:
        try:
            self._work_off(workspace_id, [task_id])
        except CoordinationError as error:
            log.warning("a parked task was left alone", why=error.message)
        except Exception:
            log.exception("a parked task was left alone")

    def _loop(self) -> None:
        while not self._ended.wait(_LOOK):
            try:
                self.look()
            except (redis.RedisError, CoordinationError) as error:
                log.debug("no look for parked tasks", why=str(error))
            except Exception:
                # A bulkhead: the next look must come.
                log.exception("no look for parked tasks")
