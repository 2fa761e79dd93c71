"""What beat starts every few minutes: delete what is older than it is to be kept."""

from __future__ import annotations

from celery import shared_task

from workers.process import lifecycle


@shared_task(name="coordination.retain", ignore_result=True)  # type: ignore[untyped-decorator]
def retain() -> None:
    """A round of retention, unless somebody else is at it or it was done a short while ago."""
    lifecycle.process().housekeeper.clearing.clear()
