"""The Celery task that ticks one project's supervisor."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from coordination.base.ids import is_id
from workers.process import lifecycle


@shared_task(name="coordination.tick", ignore_result=True)  # type: ignore[untyped-decorator]
def tick(workspace_id: Any, project_id: Any) -> None:
    """Tick the project, unless another worker does or did since the sweep."""
    if isinstance(workspace_id, str) and isinstance(project_id, str) and is_id(workspace_id) and is_id(project_id):
        process = lifecycle.process()
        process.housekeeper.tick(workspace_id, project_id, every=process.context.settings.tick)
