"""Rings for ready tasks: one Celery message each, readable in Flower. A lost ring costs a sweep, never a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.messaging import Producer

from coordination.errors import DatabaseUnavailable
from coordination.services import windows
from coordination.store.engine import Store
from coordination.store.queries import ready
from coordination.store.queries.ready import Ready
from workers import queues
from workers.app import app

log = structlog.get_logger()

_TASK = "coordination.run"
_SHOWN = 120


class Doorbell:
    """Sends "task T may be ready, have a look" after the commit that made it ready."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ring(self, workspace_id: str, project: str, tasks: Sequence[Ready], *, bundle: Callable[[str], int]) -> bool:
        """Ring for *tasks* of one project; False when Redis did not take it (the next tick rings again).

        *bundle* says how many tasks of a kind may share a message.
        """
        if not tasks:
            return True
        try:
            with app.producer_or_acquire() as producer:
                groups = windows.grouped(tasks, bundle)
                if len(groups) == 1 or not self._send_at_once(producer, workspace_id, project, groups):
                    self._send(producer, workspace_id, project, groups)
        except OperationalError as error:
            log.warning("doorbell not sent; the next sweep rings again", project=project, why=str(error))
            self._take_back(workspace_id, tasks)
            return False
        return True

    def _send_at_once(
        self, producer: Producer, workspace_id: str, project: str, groups: Sequence[Sequence[Ready]]
    ) -> bool:
        """Send the messages in one trip, because others wait for them; False when some may not have arrived.

        Such a trip is made once, on a connection that may be broken. Those that did arrive are heard twice then.
        """
        try:
            with producer.batch():  # type: ignore[no-untyped-call]
                self._send(producer, workspace_id, project, groups)
        except BatchPublishError as error:
            log.info("sending doorbells again, one by one", project=project, why=str(error.__cause__ or error))
            return False
        return True

    def _send(self, producer: Producer, workspace_id: str, project: str, groups: Sequence[Sequence[Ready]]) -> None:
        for group in groups:
            first = group[0]
            more = f" +{len(group) - 1}" if len(group) > 1 else ""
            app.send_task(
                _TASK,
                [workspace_id, [[item.id, item.attempt] for item in group]],
                queue=queues.JOBS,
                producer=producer,
                shadow=f"{project}/{first.key}"[:_SHOWN] + more,
                argsrepr=f"project={project} task={first.key}{more} title={first.title[:_SHOWN]!r}",
                kwargsrepr="",
            )

    def _take_back(self, workspace_id: str, tasks: Sequence[Ready]) -> None:
        try:
            with self._store.write() as tx:
                ready.unmark_rung(tx, workspace_id, [item.id for item in tasks])
        except DatabaseUnavailable:
            log.warning("the note that a doorbell was sent stands; it is rung again when it is old")
