"""Beat scheduler that adds no messages to a queue that no worker empties.

Redis keeps an expired message until a worker receives it. Without a worker, a message every few seconds would fill the
queue without limit, and the first worker would have to discard them all.
"""

from __future__ import annotations

from typing import Any

import structlog
from celery.beat import PersistentScheduler

from coordination.base.host import keep_private
from coordination.callers import check_caller
from coordination.settings import load_settings

log = structlog.get_logger()

MOST_WAITING = 20
"""Beat adds no message to a queue with so many: the existing ones request the same."""


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Skips entries whose queue is long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        keep_private()
        check_caller(load_settings().database_url)
        super().__init__(*args, **kwargs)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
        """Send the entry's message, unless its queue is long."""
        queue = entry.options.get("queue")
        if queue is not None and self._count_waiting(queue) >= MOST_WAITING:
            if advance:
                self.reserve(entry)
            log.debug("skipped an entry: no worker empties the queue", entry=entry.name, queue=queue)
            return None
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)

    def _count_waiting(self, queue: str) -> int:
        """Return the length of the queue, or 0 when Redis is unavailable, which sending will report."""
        connection = self.connection
        try:
            return int(connection.default_channel.queue_declare(queue).message_count)
        except (OSError, *connection.connection_errors, *connection.channel_errors):
            return 0
