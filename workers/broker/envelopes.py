"""What a message must look like before Celery sees it: Celery raises, or worse obeys, where we would rather refuse.

A known field has the type that we write, an unknown one is ignored, so a later release may add some. Nothing may ask
for what we never ask for: a start time, a callback, a chain, a compressed or pickled body.
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
    """The message as kombu wants it, or in a few words why it is refused. *queue*: where it was found."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return "it is no JSON"
    return next((why for why, fits in _SHAPE if not fits(found)), None) or _wrong_call(queue, found) or found


def _wrong_call(queue: str, message: Mapping[str, Any]) -> str | None:
    if queue == queues.CONTROL:
        return _wrong_command(_body(message))
    if queue not in queues.ALL:
        return None
    headers = message.get("headers") or {}
    if not isinstance(task := headers.get("task"), str) or queues.OF_TASK.get(task) != queue:
        return "it calls no task of this queue"
    for name, fits in _HEADERS.items():
        if not fits(headers.get(name)):
            return f"its header {name} cannot be used"
    match _body(message):
        case [list(), dict(), dict() as more] if not any(more.values()):
            return None
    return "its body is no call without callbacks"


def _wrong_command(body: Any) -> str | None:
    match body:
        case {"method": str(method), "arguments": dict() | None as arguments} if "self" not in body:
            wrong = next((name for name, fits in _COMMAND.items() if not fits(body.get(name))), None)
            return f"the {wrong} of its command cannot be used" if wrong else _not_taken(method, arguments or {})
    return "its body is no control command"


def _not_taken(method: str, arguments: Mapping[str, Any]) -> str | None:
    """Why no worker can obey that command, for which Celery would log a traceback."""
    if (command := Panel.data.get(method)) is None:
        return "there is no such control command"
    try:
        inspect.signature(command).bind(None, **arguments)
    except TypeError:
        return "its command does not take these arguments"
    return None


def _body(message: Mapping[str, Any]) -> Any:
    """None: it cannot be read."""
    try:
        return json.loads(b64decode(message["body"], validate=True))
    except (ValueError, RecursionError):
        return None


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)


def _is_nothing(value: Any) -> bool:
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
        "it is no message of Celery's",
        lambda found: isinstance(found, dict) and isinstance(found.get("properties"), dict),
    ),
    ("its headers are no object", lambda found: isinstance(found.get("headers") or {}, dict)),
    ("its delivery_info is no object", lambda found: isinstance(found["properties"].get("delivery_info", {}), dict)),
    (
        "its body is no JSON in UTF-8",
        lambda found: (found.get("content-type"), found.get("content-encoding")) == ("application/json", "utf-8"),
    ),
    ("its body is compressed", lambda found: not (found.get("headers") or {}).get("compression")),
    (
        "its body is not in base64",
        lambda found: isinstance(found.get("body"), str) and found["properties"].get("body_encoding") == "base64",
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
    **dict.fromkeys(("eta", "group", "group_index", "chord"), _is_nothing),
    **dict.fromkeys(("stamps", "stamped_headers", "replaced_task_nesting"), _is_nothing),
    **dict.fromkeys(("root_id", "parent_id", "shadow", "origin", "argsrepr", "kwargsrepr"), _is_text),
    "ignore_result": lambda value: value in (None, True, False),
}
