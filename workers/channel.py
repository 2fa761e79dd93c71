"""Celery's channel to Redis, mended: a connection that broke must not take the worker with it.

When Redis goes away while messages are fetched and not yet acknowledged, kombu 5.7 wants to put them back as it closes
the channel, through a connection that is gone already, and fails with an AttributeError; and so does a message that was
to be acknowledged just then, on the channel that has been closed meanwhile. Celery expects errors of the connection
there and no others, so the whole worker ends. Nothing is lost by not putting them back, or by not acknowledging them: a
doorbell that nobody answers is rung again, and one that comes twice finds nothing to do.
"""

from __future__ import annotations

from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger()


class ForgivingQoS(redis.QoS):
    """What was fetched goes back to the queue when the channel is closed, if that can be."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back what was not acknowledged; a failure is noted and ends there."""
        try:
            super().restore_unacked_once(stderr=stderr)  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001 - whatever it is, the channel must be closed and the worker connect again
            log.warning("fetched messages were not put back; their tasks are rung for again", why=repr(error))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge, on a channel that is open; on a closed one there is nobody to tell."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except AttributeError:
            self._expect_closed("acknowledged")

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - as kombu has it
        """Refuse, likewise."""
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        except AttributeError:
            self._expect_closed("refused")

    def _expect_closed(self, what: str) -> None:
        if self.channel.connection is not None:
            raise  # noqa: PLE0704 - within the handlers above
        log.warning("a message was not %s: its channel is closed", what)


def mend() -> None:
    """Let every channel to Redis in this process be a forgiving one."""
    redis.Channel.QoS = ForgivingQoS
