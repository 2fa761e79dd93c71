"""Parsers of broker messages that tolerate messages from other versions of this program.

A release may add fields: readers ignore unknown ones. ``version`` increases only when existing fields change their
meaning, and is omitted while it is 1. Readers refuse higher versions. Refusing a message is the same as losing it: the
supervisor's sweep enqueues its tasks again.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coordination.base.ids import is_id

VERSION = 1

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


class EnqueuedMessage(BaseModel):
    """Names tasks that may be ready. Workers read what to run from SQL, never from a message."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    workspace_id: str = Field(pattern=_UUID)
    tasks: list[tuple[str, int]] = Field(min_length=1, max_length=1000)
    version: int = Field(default=1, ge=1, le=VERSION)


def read_enqueued_message(workspace_id: Any, tasks: Any, more: dict[str, Any]) -> EnqueuedMessage | str:
    """Parse an enqueued message, or return what is wrong with it. Each item of *tasks* starts with [id, attempt]."""
    if isinstance(tasks, list):
        tasks = [tuple(item[:2]) if isinstance(item, list) else item for item in tasks]
    try:
        return EnqueuedMessage.model_validate({**more, "workspace_id": workspace_id, "tasks": tasks})
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()[:3])


def read_wakeup(text: str) -> tuple[str, str] | None:
    """Parse a wakeup, which starts with [workspace id, project id]. Return None for anything else."""
    match _list(text):
        case [str() as workspace_id, str() as project_id, *_] if is_id(workspace_id) and is_id(project_id):
            return workspace_id, project_id
    return None


def read_cancels(text: str) -> list[tuple[str, int]]:
    """Return the (task id, attempt) pairs that a message cancels. Ignores malformed items."""
    return [(item[0], item[1]) for item in _list(text) if _is_attempt(item)]


def read_stops(text: str) -> list[tuple[str, int, bool]]:
    """Return (task id, attempt, immediate) of the attempts that a message stops. Ignores malformed items.

    ``immediate``: without a grace period.
    """
    return [(item[0], item[1], len(item) > 2 and item[2] is True) for item in _list(text) if _is_attempt(item)]  # noqa: PLR2004


def _is_attempt(item: Any) -> bool:
    return isinstance(item, list) and len(item) >= 2 and isinstance(item[0], str) and type(item[1]) is int  # noqa: PLR2004


def _list(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return []
    return value if isinstance(value, list) else []
