"""The doorbell's other end: have a look at these tasks, and run what is still ready."""

from __future__ import annotations

from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers import lifecycle
from workers.app import app

log = structlog.get_logger()

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


class Doorbell(BaseModel):
    """The message: ids and attempt numbers only. What runs is read from SQL, never from a message."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    workspace_id: str = Field(pattern=_UUID)
    tasks: list[tuple[str, int]] = Field(min_length=1, max_length=1000)


@app.task(name="coordination.run", ignore_result=True)  # type: ignore[untyped-decorator]
def run_tasks(workspace_id: Any, tasks: Any) -> None:
    """Claim and run those of *tasks* ([id, attempt] pairs) that are still ready."""
    try:
        pairs = (
            [tuple(pair) if isinstance(pair, list) else pair for pair in tasks] if isinstance(tasks, list) else tasks
        )
        bell = Doorbell(workspace_id=workspace_id, tasks=pairs)
    except ValidationError as error:
        log.warning("refused a malformed message", problems=error.error_count())
        return
    lifecycle.process().execution.work_off(bell.workspace_id, [task_id for task_id, _ in bell.tasks])
