"""Classification of provider errors, the same for all coding agents and chats.

An error is recognized by the provider's error type, by the HTTP status, or by its message: see provider_error_table.
Errors of side requests (statistics, updates, tool servers) are ignored, because the agent continues.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from coordination.domain.jobs import provider_error_table as table
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.jobs.reset_times import parse_reset

UNNAMED_RESET = timedelta(minutes=15)
"""How long a task waits for a limit with an unknown reset."""

LONGEST_RETRY_AFTER = timedelta(hours=1)
"""The longest wait that a busy provider may request."""

_CLIENT, _SERVER, _NONE = 400, 500, 600  # HTTP


@dataclass(frozen=True, slots=True)
class ProviderLimit:
    """A limit that was reached: its account, its window and its reset time, each None if unknown."""

    account: str | None = None
    window: str | None = None
    resets_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the attempt."""
        resets = None if self.resets_at is None else self.resets_at.astimezone(UTC).isoformat()
        return {"account": self.account, "window": self.window, "resets_at": resets}

    def sentence(self) -> str:
        """Return a sentence with the limit, its account and its reset."""
        which = f"the {self.window} limit" if self.window else "the limit"
        whose = f" of {self.account}" if self.account else ""
        until = "" if self.resets_at is None else f" until {self.resets_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{which}{whose} is used up{until}"


def limit_of(details: object) -> ProviderLimit | None:
    """Return the limit that an attempt reached, from its stored details, or None."""
    stored = details.get("limit") if isinstance(details, dict) else None
    if not isinstance(stored, dict):
        return None
    try:
        resets = datetime.fromisoformat(stored["resets_at"]) if stored.get("resets_at") else None
    except (TypeError, ValueError):
        resets = None
    return ProviderLimit(stored.get("account"), stored.get("window"), resets)


@dataclass(frozen=True, slots=True)
class ProviderError:
    """A classified error. ``resets_at``: when the message says that it ends. ``window``, ``account``: of a limit."""

    error_class: ProviderErrorClass
    resets_at: datetime | None = None
    window: str | None = None
    account: str | None = None
    status: int | None = None


# An HTTP status in a message; the first group that is not empty.
_STATUS = re.compile(
    r"API Error:?\s*\(?(?:status(?: code)?:?\s*)?(\d{3})\b"
    r"|\bstatus(?: ?code)?[\"']?\s*[:=]?\s*(\d{3})\b"
    r"|[\"']?\bcode[\"']?\s*:\s*[\"']?(\d{3})\b"
    r"|\bHTTP(?:/\d(?:\.\d)?)?(?: error| status)?:?\s+(\d{3})\b"
    r"|\brequest (?:was )?rejected \((\d{3})\)"
    r"|\b(\d{3})[:\s]+(?:Too Many Requests|Service Unavailable|Internal Server Error|Bad Gateway|Gateway Time-?out)"
    r"|\b(\d{3})[:\s]+(?:Overloaded|Unauthorized|Forbidden|Bad Request|Not Found|Payment Required|Payload Too Large|\{)"
    r"|^\W*(?:Error:\s*)?([45]\d\d)\b",
    re.IGNORECASE,
)
_TYPE = re.compile(
    r"[\"'](?:type|code|status|name|reason)[\"']\s*:\s*[\"']([A-Za-z][A-Za-z0-9_]{2,60})[\"']"
    r"|\b([a-z]+(?:_[a-z]+)*_error)\b"
)
_ACCOUNT = re.compile(
    r"\b(?:organi[sz]ation|org|project|workspace|account)\s*[:=]?\s*[`'\"]?"
    r"((?:org|proj|acct|wrkspc|user|team)[-_][A-Za-z0-9_-]{2,60}|[\w.+-]{1,60}@[\w.-]{3,60})",
    re.IGNORECASE,
)


def classify(
    words: str,
    *,
    status: int | None = None,
    type_: str | None = None,
    lost_connection: bool = False,
    now: datetime,
    local: tzinfo = UTC,
) -> ProviderError:
    """Classify the message *words* with the error's *status* and *type_*; *local*: the zone of times without one."""
    text = provider_lines(words)
    if status is None and (match := _STATUS.search(text)):
        status = int(next(group for group in match.groups() if group))
    types = [name for name in (type_, *(first or second for first, second in _TYPE.findall(text))) if name]
    type_classes = [by_type for name in types if (by_type := table.BY_TYPE.get(name.lower())) is not None]
    if status is not None and _CLIENT <= status < _NONE:
        error_class = _class_of_status(text, status, type_classes)
    else:
        error_class = _class_of_words(text, type_classes, lost_connection=lost_connection)
    if not error_class.waits:
        return ProviderError(error_class, status=status)
    resets = parse_reset(text, now=now, local=local)
    if error_class is ProviderErrorClass.TRANSIENT:
        return ProviderError(error_class, resets, status=status)
    account = _ACCOUNT.search(text)
    return ProviderError(error_class, resets, window_of(text), account[1] if account else None, status)


def provider_lines(words: str) -> str:
    """Return *words* without the lines about side requests. Lines with a provider's own error are always kept."""
    lines = words.splitlines() or [words]
    return "\n".join(
        line for line in lines if table.has_any(table.PROVIDERS, line) or not table.has_any(table.SIDE_REQUESTS, line)
    )


def window_of(words: str) -> str | None:
    """Return the standard name of the limit's window that *words* mention, or None."""
    return next((name for pattern, name in table.WINDOWS if re.search(pattern, words, re.IGNORECASE)), None)


def _class_of_words(text: str, types: Sequence[ProviderErrorClass], *, lost_connection: bool) -> ProviderErrorClass:
    """Return the class by the error *types* in the message, else by its words."""
    limited = ProviderErrorClass.LIMIT in types or _is_limit(text)
    if lost_connection:
        return ProviderErrorClass.LIMIT if limited else ProviderErrorClass.TRANSIENT
    if types:
        if ProviderErrorClass.LOG_IN in types:
            return ProviderErrorClass.LOG_IN
        return ProviderErrorClass.LIMIT if limited and types[0] is not ProviderErrorClass.REFUSED else types[0]
    row = next((row for row in table.TABLE if row.has_words(text)), None)
    if row is None:
        return ProviderErrorClass.FAILED
    if row is table.LIMIT and not limited:  # a limit of a minute, which ends soon
        return ProviderErrorClass.TRANSIENT
    return row.error_class


def _class_of_status(text: str, status: int, types: Sequence[ProviderErrorClass]) -> ProviderErrorClass:
    """Return the class by the status; limits and missing log-ins are recognized better by the words."""
    limited = ProviderErrorClass.LIMIT in types or _is_limit(text)
    usual = table.BY_STATUS.get(
        status, ProviderErrorClass.TRANSIENT if status >= _SERVER else ProviderErrorClass.REFUSED
    )
    if table.TOO_LARGE.has_words(text) and status < _SERVER:
        return ProviderErrorClass.REFUSED
    if usual is ProviderErrorClass.TRANSIENT:
        return ProviderErrorClass.LIMIT if limited and status in table.LIMITED else usual
    if usual in (ProviderErrorClass.REFUSED, ProviderErrorClass.LOG_IN) and limited:
        return ProviderErrorClass.LIMIT
    if usual is ProviderErrorClass.REFUSED and (ProviderErrorClass.LOG_IN in types or table.LOG_IN.has_words(text)):
        return ProviderErrorClass.LOG_IN
    return usual


def _is_limit(text: str) -> bool:
    """Return whether the words mean that an account has reached a limit, not only a limit per minute."""
    return table.LIMIT.has_words(text) and (
        not table.has_any(table.BUSY_MINUTE, text) or table.has_any(table.QUOTA_USED_UP, text)
    )
