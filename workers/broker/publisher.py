"""Enqueue ready tasks as Celery messages. A lost message delays its tasks until the next sweep; none is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from celery import Celery
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.messaging import Producer

from coordination.base.errors import DatabaseUnavailable
from coordination.services.tasks import dispatch_window
from coordination.store.engine import Store
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask
from workers.broker import queues

log = structlog.get_logger()

_TASK = "coordination.run"
_SHOWN = 120


class Publisher(Protocol):
    """Sends a message that names tasks which may be ready, after the commit that made them ready."""

    def publish(
        self, workspace_id: str, project: str, tasks: Sequence[ReadyTask], *, bundle: Callable[[str], int]
    ) -> bool:
        """Enqueue *tasks* of one project. Return False when the broker refused; the next tick enqueues them again.

        *bundle* returns how many tasks of a kind may share a message.
        """
        ...


class CeleryPublisher:
    """Publishes through a Celery app. Marks tasks in *store* as not enqueued when the broker refuses them."""

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store

    def publish(
        self, workspace_id: str, project: str, tasks: Sequence[ReadyTask], *, bundle: Callable[[str], int]
    ) -> bool:
        """Enqueue *tasks* of one project; see Publisher."""
        if not tasks:
            return True
        try:
            with self._app.producer_or_acquire() as producer:
                groups = dispatch_window.group_by_message(tasks, bundle)
                if len(groups) == 1 or not self._send_at_once(producer, workspace_id, project, groups):
                    self._send(producer, workspace_id, project, groups)
        except OperationalError as error:
            log.warning("tasks not enqueued; the next sweep enqueues them", project=project, why=str(error))
            self._unmark(workspace_id, tasks)
            return False
        return True

    def _send_at_once(
        self, producer: Producer, workspace_id: str, project: str, groups: Sequence[Sequence[ReadyTask]]
    ) -> bool:
        """Send all messages in one pipeline. Return False when some may not have arrived.

        The pipeline is not retried: after an error on a broken connection, some messages may arrive twice.
        """
        try:
            with producer.batch():  # type: ignore[no-untyped-call]
                self._send(producer, workspace_id, project, groups)
        except BatchPublishError as error:
            log.info("sending the messages again, one by one", project=project, why=str(error.__cause__ or error))
            return False
        return True

    def _send(self, producer: Producer, workspace_id: str, project: str, groups: Sequence[Sequence[ReadyTask]]) -> None:
        for group in groups:
            first = group[0]
            more = f" +{len(group) - 1}" if len(group) > 1 else ""
            self._app.send_task(
                _TASK,
                [workspace_id, [[item.id, item.attempt] for item in group]],
                queue=queues.JOBS,
                producer=producer,
                shadow=f"{project}/{first.key}"[:_SHOWN] + more,
                argsrepr=f"project={project} task={first.key}{more} title={first.title[:_SHOWN]!r}",
                kwargsrepr="",
            )

    def _unmark(self, workspace_id: str, tasks: Sequence[ReadyTask]) -> None:
        try:
            with self._store.write() as tx:
                ready.unmark_enqueued(tx, workspace_id, [item.id for item in tasks])
        except DatabaseUnavailable:
            log.warning("tasks still count as enqueued; they are enqueued again later")
