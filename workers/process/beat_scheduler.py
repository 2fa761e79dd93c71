"""Beat's scheduler: Celery's own, but it asks no more of a queue that nobody empties.

Redis keeps an expired message until a worker takes it out. With no worker alive, a message every few seconds would
fill the queue for ever, and the first worker that comes would have to throw them all away.
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
"""From so many messages on, beat adds none to a queue: those that are there already ask for the same."""


class Scheduler(PersistentScheduler):  # type: ignore[misc]
    """Leaves out an entry's turn while its queue is long."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        keep_private()
        check_caller(load_settings().database_url)
        super().__init__(*args, **kwargs)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
        """Send the entry's message, or let its turn pass."""
        queue = entry.options.get("queue")
        if queue is not None and self._waiting(queue) >= MOST_WAITING:
            if advance:
                self.reserve(entry)
            log.debug("let a turn pass: nobody empties the queue", entry=entry.name, queue=queue)
            return None
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)

    def _waiting(self, queue: str) -> int:
        """How many messages are in the queue; 0 where Redis does not answer: then sending says what is the matter."""
        connection = self.connection
        try:
            return int(connection.default_channel.queue_declare(queue).message_count)
        except (OSError, *connection.connection_errors, *connection.channel_errors):
            return 0
