"""What the text of a setting means: a value, or ValueError, with a reason if there is one to give."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from coordination.base.durations import parse_duration
from coordination.base.errors import Refused
from coordination.base.sizes import parse_size
from coordination.base.urls import is_socket, redis_parts, written_for_socket
from coordination.domain.fleet.served_workspaces import NAME
from coordination.domain.jobs.network import parse_network
from coordination.domain.jobs.resource_limits import FEWEST_FILES

STRICT = "strict"
"""The sandbox that shows jobs only what is named."""

_MOST = 1_000_000_000


def duration(text: str) -> timedelta:
    """A length of time; none is allowed."""
    try:
        return parse_duration(text)
    except Refused:
        raise ValueError from None


def positive_duration(text: str) -> timedelta:
    """A length of time."""
    found = duration(text)
    if not found:
        raise ValueError
    return found


def days(text: str) -> timedelta:
    """A length of time, in days where no unit stands; never is none."""
    if text.lower() == "never":
        return timedelta(0)
    return duration(f"{text}d" if re.fullmatch(r"[0-9.]+", text, re.ASCII) else text)


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not 1 <= int(text) <= _MOST:
        raise ValueError
    return int(text)


def size(text: str) -> int:
    """A number of bytes."""
    try:
        return parse_size(text)
    except Refused:
        raise ValueError from None


def artifacts_url(text: str) -> str:
    """A folder or a store, as a URL without a password."""
    scheme, separator, rest = text.partition("://")
    if text.startswith("/"):
        return f"file://{os.path.normpath(text)}"
    if not separator or not rest or not scheme.isidentifier() or "::" in text:
        raise ValueError
    if "@" in rest:
        raise ValueError("it holds a name or a password; give these where the store's own library looks for them")
    return text.rstrip("/")


def files(text: str) -> int:
    """How many files a process may open."""
    number = count(text)
    if number < FEWEST_FILES:
        raise ValueError
    return number


def descriptor(text: str) -> int:
    """A file descriptor."""
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII):
        raise ValueError
    return int(text)


def switch(text: str) -> bool:
    """Yes or no."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError


def sandbox(text: str) -> str:
    """Off, on, or strict, as 0, 1 and strict."""
    return STRICT if text.lower() == STRICT else ("1" if switch(text) else "0")


def network(text: str) -> str:
    """What may be reached, as it was written."""
    parse_network(text)
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return parse


def workspace(text: str) -> str:
    """A workspace's name."""
    if not NAME.fullmatch(text):
        raise ValueError
    return text


def absolute_folder(text: str) -> Path:
    """An absolute path."""
    path = _path(text)
    if not path.is_absolute():
        raise ValueError
    return Path(os.path.normpath(path))


def folder(text: str) -> Path:
    """A path, made absolute: one that is relative begins at the current folder."""
    try:
        return Path(os.path.abspath(_path(text)))  # noqa: PTH100 - with .. taken out, as a person reads it
    except OSError:
        raise ValueError("it begins at the current folder, which has gone") from None


def _path(text: str) -> Path:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("it holds bytes that are no text, which a URL cannot carry")
    return Path(text).expanduser()


def paths(text: str) -> str:
    """Absolute paths with colons between them."""
    return os.pathsep.join(str(absolute_folder(part)) for part in text.split(os.pathsep) if part)


def folder_if_absolute(text: str) -> Path | None:
    """Not our variable: its specification says that what is not absolute is ignored."""
    return Path(text) if Path(text).is_absolute() else None


def redis_url(text: str) -> str:
    """A Redis, as a URL."""
    parts = redis_parts(text)
    return written_for_socket("unix", parts, "db") if is_socket(parts) else parts.geturl()
