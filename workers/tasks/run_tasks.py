"""The Celery task that receives enqueued tasks and runs those that are still ready."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from workers.broker import queues
from workers.broker.messages import read_enqueued_message
from workers.broker.signed_channel import refusals
from workers.process import lifecycle


@shared_task(name="coordination.run", ignore_result=True)  # type: ignore[untyped-decorator]
def run_tasks(workspace_id: Any = None, tasks: Any = None, *_more: Any, **more: Any) -> None:
    """Claim and run those of *tasks* ([id, attempt] pairs) that are still ready."""
    process = lifecycle.process()
    process.watchdog.count_message()
    message = read_enqueued_message(workspace_id, tasks, more)
    if isinstance(message, str):
        refusals.note(queues.JOBS, message)
        return
    process.executor.run_tasks(message.workspace_id, [task_id for task_id, _ in message.tasks])
