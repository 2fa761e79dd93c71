"""Validate raw broker messages before Celery processes them, because Celery raises on some and obeys others.

Known fields must have the types that we write; unknown fields are ignored, so a later release may add some. Features
that we never use are refused: start times, callbacks, chains, compressed or pickled bodies.
"""

from __future__ import annotations

import inspect
import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from celery.worker.control import Panel

from workers.broker import queues

_NAME = re.compile(r"[\x20-\x7e]{1,200}")
_LONGEST_TEXT = 2_000


def read_envelope(queue: str, raw: bytes) -> dict[str, Any] | str:
    """Parse a message of *queue* into kombu's form, or return why it is refused."""
    try:
        message = json.loads(raw)
    except (ValueError, RecursionError):
        return "it is not JSON"
    return next((why for why, fits in _SHAPE if not fits(message)), None) or _call_problem(queue, message) or message


def _call_problem(queue: str, message: Mapping[str, Any]) -> str | None:
    if queue == queues.CONTROL:
        return _command_problem(_body(message))
    if queue not in queues.ALL:
        return None
    headers = message.get("headers") or {}
    if not isinstance(task := headers.get("task"), str) or queues.OF_TASK.get(task) != queue:
        return "it calls a task that does not belong to this queue"
    for name, fits in _HEADERS.items():
        if not fits(headers.get(name)):
            return f"its header {name} cannot be used"
    match _body(message):
        case [list(), dict(), dict() as more] if not any(more.values()):
            return None
    return "its body is not a call without callbacks"


def _command_problem(body: Any) -> str | None:
    match body:
        case {"method": str(method), "arguments": dict() | None as arguments} if "self" not in body:
            wrong = next((name for name, fits in _COMMAND.items() if not fits(body.get(name))), None)
            return (
                f"the {wrong} of its command cannot be used" if wrong else _signature_problem(method, arguments or {})
            )
    return "its body is not a control command"


def _signature_problem(method: str, arguments: Mapping[str, Any]) -> str | None:
    """Return why a worker cannot run that command, which Celery would answer with a traceback."""
    if (command := Panel.data.get(method)) is None:
        return "there is no such control command"
    try:
        inspect.signature(command).bind(None, **arguments)
    except TypeError:
        return "its command does not take these arguments"
    return None


def _body(message: Mapping[str, Any]) -> Any:
    """Decode the body. Return None when it is malformed."""
    try:
        return json.loads(b64decode(message["body"], validate=True))
    except (ValueError, RecursionError):
        return None


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)


def _is_empty(value: Any) -> bool:
    return not value


def _is_time(value: Any) -> bool:
    if value is None:
        return True
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


_SHAPE: Sequence[tuple[str, Callable[[Any], bool]]] = (
    (
        "it is not a Celery message",
        lambda message: isinstance(message, dict) and isinstance(message.get("properties"), dict),
    ),
    ("its headers are not an object", lambda message: isinstance(message.get("headers") or {}, dict)),
    (
        "its delivery_info is not an object",
        lambda message: isinstance(message["properties"].get("delivery_info", {}), dict),
    ),
    (
        "its body is not JSON in UTF-8",
        lambda message: (message.get("content-type"), message.get("content-encoding")) == ("application/json", "utf-8"),
    ),
    ("its body is compressed", lambda message: not (message.get("headers") or {}).get("compression")),
    (
        "its body is not in base64",
        lambda message: isinstance(message.get("body"), str) and message["properties"].get("body_encoding") == "base64",
    ),
)

_COMMAND: Mapping[str, Callable[[Any], bool]] = {
    "destination": lambda value: value is None or (isinstance(value, list) and all(map(_is_text, value))),
    "pattern": _is_text,
    "matcher": _is_text,
    "ticket": _is_text,
    "reply_to": lambda value: value is None or (isinstance(value, dict) and all(map(_is_text, value.values()))),
}

_HEADERS: Mapping[str, Callable[[Any], bool]] = {
    "id": lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None,
    "lang": lambda value: value == "py",
    "expires": _is_time,
    "retries": lambda value: type(value) is int and value == 0,
    "timelimit": lambda value: value in ([None, None], None),
    **dict.fromkeys(("eta", "group", "group_index", "chord"), _is_empty),
    **dict.fromkeys(("stamps", "stamped_headers", "replaced_task_nesting"), _is_empty),
    **dict.fromkeys(("root_id", "parent_id", "shadow", "origin", "argsrepr", "kwargsrepr"), _is_text),
    "ignore_result": lambda value: value in (None, True, False),
}
