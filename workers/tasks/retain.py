"""The Celery task that beat sends every few minutes to delete expired rows."""

from __future__ import annotations

from celery import shared_task

from workers.process import lifecycle


@shared_task(name="coordination.retain", ignore_result=True)  # type: ignore[untyped-decorator]
def retain() -> None:
    """Run a round of retention, unless another worker does or one was done recently."""
    lifecycle.process().housekeeper.clearing.clear()
