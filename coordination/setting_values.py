"""Parsers of settings: return a value, or raise ValueError, with a reason if possible."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from coordination.base.durations import parse_duration
from coordination.base.errors import Refused
from coordination.base.sizes import parse_size
from coordination.base.urls import is_socket, redis_parts, url_of_socket
from coordination.domain.fleet.served_workspaces import NAME
from coordination.domain.jobs.network import parse_network
from coordination.domain.jobs.resource_limits import FEWEST_FILES

STRICT = "strict"
"""The sandbox that shows jobs only what is named."""

_MAX_COUNT = 1_000_000_000


def duration(text: str) -> timedelta:
    """Parse a duration; zero is allowed."""
    try:
        return parse_duration(text)
    except Refused:
        raise ValueError from None


def positive_duration(text: str) -> timedelta:
    """Parse a duration above zero."""
    value = duration(text)
    if not value:
        raise ValueError
    return value


def days(text: str) -> timedelta:
    """Parse a duration, in days without a unit; ``never`` is zero."""
    if text.lower() == "never":
        return timedelta(0)
    return duration(f"{text}d" if re.fullmatch(r"[0-9.]+", text, re.ASCII) else text)


def count(text: str) -> int:
    """Parse a whole number from 1."""
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not 1 <= int(text) <= _MAX_COUNT:
        raise ValueError
    return int(text)


def size(text: str) -> int:
    """Parse a number of bytes."""
    try:
        return parse_size(text)
    except Refused:
        raise ValueError from None


def artifacts_url(text: str) -> str:
    """Parse a folder or the URL of a store, without a password."""
    scheme, separator, rest = text.partition("://")
    if text.startswith("/"):
        return f"file://{os.path.normpath(text)}"
    if not separator or not rest or not scheme.isidentifier() or "::" in text:
        raise ValueError
    if "@" in rest:
        raise ValueError("it contains a name or a password; set these where the store's own library reads them")
    return text.rstrip("/")


def files(text: str) -> int:
    """Parse how many files a process may open."""
    number = count(text)
    if number < FEWEST_FILES:
        raise ValueError
    return number


def descriptor(text: str) -> int:
    """Parse a file descriptor."""
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII):
        raise ValueError
    return int(text)


def switch(text: str) -> bool:
    """Parse yes or no."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError


def sandbox(text: str) -> str:
    """Parse 0, 1 or strict."""
    return STRICT if text.lower() == STRICT else ("1" if switch(text) else "0")


def network(text: str) -> str:
    """Return *text* if it describes reachable hosts."""
    parse_network(text)
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser for one of these words."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return parse


def workspace(text: str) -> str:
    """Parse a workspace's name."""
    if not NAME.fullmatch(text):
        raise ValueError
    return text


def absolute_folder(text: str) -> Path:
    """Parse an absolute path."""
    path = _path(text)
    if not path.is_absolute():
        raise ValueError
    return Path(os.path.normpath(path))


def folder(text: str) -> Path:
    """Parse a path; a relative one is made absolute from the current folder."""
    try:
        return Path(os.path.abspath(_path(text)))  # noqa: PTH100 - resolve() would follow links
    except OSError:
        raise ValueError("it is relative to the current folder, which does not exist any more") from None


def _path(text: str) -> Path:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("it contains bytes that are not text, which a URL cannot express")
    return Path(text).expanduser()


def paths(text: str) -> str:
    """Parse absolute paths with colons between them."""
    return os.pathsep.join(str(absolute_folder(part)) for part in text.split(os.pathsep) if part)


def folder_if_absolute(text: str) -> Path | None:
    """Parse an absolute path; other values are ignored, as the specification of the variable says."""
    return Path(text) if Path(text).is_absolute() else None


def redis_url(text: str) -> str:
    """Parse the URL of a Redis."""
    parts = redis_parts(text)
    return url_of_socket("unix", parts, "db") if is_socket(parts) else parts.geturl()
