"""What goes over the broker, read as programs of two versions must read each other's messages: tolerantly.

Fields may be added by any release: a reader ignores those that it does not know. ``version`` is raised only when what
is there changes its meaning, and is left out while it is 1; a reader refuses a version that it cannot know. A refused
message is a lost one: the supervisor's sweep rings again for its tasks.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordination.base.ids import is_id

VERSION = 1

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


class EnqueuedMessage(BaseModel):
    """Ids and attempt numbers only. What runs is read from SQL, never from a message."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    workspace_id: str = Field(pattern=_UUID)
    tasks: list[tuple[str, int]] = Field(min_length=1, max_length=1000)
    version: int = Field(default=1, ge=1, le=VERSION)


def read_enqueued_message(workspace_id: Any, tasks: Any, more: dict[str, Any]) -> EnqueuedMessage | str:
    """The message, or in a few words what is wrong with it. Each of *tasks* is [id, attempt], and perhaps more."""
    if isinstance(tasks, list):
        tasks = [tuple(item[:2]) if isinstance(item, list) else item for item in tasks]
    try:
        return EnqueuedMessage.model_validate({**more, "workspace_id": workspace_id, "tasks": tasks})
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:3])


def read_nudge(text: str) -> tuple[str, str] | None:
    """A nudge, [workspace, project] and perhaps more; None for what is no nudge."""
    match _list(text):
        case [str() as workspace_id, str() as project_id, *_] if is_id(workspace_id) and is_id(project_id):
            return workspace_id, project_id
    return None


def read_cancels(text: str) -> list[tuple[str, int]]:
    """The attempts that a message cancels, each [task, attempt] and perhaps more; what is malformed is left out."""
    return [(item[0], item[1]) for item in _list(text) if _is_attempt(item)]


def read_stops(text: str) -> list[tuple[str, int, bool]]:
    """The attempts that a message stops, each [task, attempt, at once] and perhaps more; malformed ones are left out.

    At once: without a grace.
    """
    return [(item[0], item[1], len(item) > 2 and item[2] is True) for item in _list(text) if _is_attempt(item)]  # noqa: PLR2004


def _is_attempt(item: Any) -> bool:
    return isinstance(item, list) and len(item) >= 2 and isinstance(item[0], str) and type(item[1]) is int  # noqa: PLR2004


def _list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return []
    return found if isinstance(found, list) else []
