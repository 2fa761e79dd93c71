"""What a provider's trouble means for an attempt, the same for all coding agents and chats. Pure.

A trouble is known by the provider's own type of error, by the HTTP status, or by the words in which it comes: see
provider_trouble_table. What programs say of requests on the side (statistics, updates, tool servers) counts for
nothing: their agent works on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from coordination.domain.jobs.provider_error_table import (
    BUSY_MINUTE,
    BY_STATUS,
    BY_TYPE,
    LIMIT,
    LIMITED,
    LOG_IN,
    PROVIDERS,
    SIDE,
    TABLE,
    TOO_LARGE,
    USED_UP,
    WINDOWS,
    ProviderErrorClass,
    has_any,
)
from coordination.domain.jobs.reset_times import reset_of

UNNAMED_RESET = timedelta(minutes=15)
"""How long a limit is waited for whose reset nobody names."""

LONGEST_RETRY_AFTER = timedelta(hours=1)
"""How long a provider that is only busy may ask to wait."""

_CLIENT, _SERVER, _NONE, _TOO_MANY = 400, 500, 600, 429  # HTTP


@dataclass(frozen=True, slots=True)
class ProviderLimit:
    """A limit that was reached: of which account, in which window, and when it is lifted (None: nobody knows)."""

    account: str | None = None
    window: str | None = None
    resets_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored with the attempt."""
        resets = None if self.resets_at is None else self.resets_at.astimezone(UTC).isoformat()
        return {"account": self.account, "window": self.window, "resets_at": resets}

    def sentence(self) -> str:
        """In words: which limit of whom, until when."""
        which = f"the {self.window} limit" if self.window else "the limit"
        whose = f" of {self.account}" if self.account else ""
        until = "" if self.resets_at is None else f" until {self.resets_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{which}{whose} is used up{until}"


def limit_of(details: object) -> ProviderLimit | None:
    """The limit that an attempt met, from what is stored with it; None when it met none."""
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
    """What is known of one. ``resets_at``: when it is over, as its words say. ``window``, ``account``: of a limit."""

    of: ProviderErrorClass
    resets_at: datetime | None = None
    window: str | None = None
    account: str | None = None
    status: int | None = None


# A status where a provider's answer is told; the first group that is not empty.
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
    """What *words* mean, with the *status* and the *type_* of the error where the program tells them apart.

    *local*: the zone in which times without one are meant.
    """
    text = told_by_provider(words)
    if status is None and (found := _STATUS.search(text)):
        status = int(next(group for group in found.groups() if group))
    types = [name for name in (type_, *(first or second for first, second in _TYPE.findall(text))) if name]
    named = [of for name in types if (of := BY_TYPE.get(name.lower())) is not None]
    if status is not None and _CLIENT <= status < _NONE:
        of = _class_of_status(text, status, named)
    else:
        of = _class_of_words(text, named, lost_connection=lost_connection)
    if not of.waits:
        return ProviderError(of, status=status)
    resets = reset_of(text, now=now, local=local)
    if of is ProviderErrorClass.TRANSIENT:
        return ProviderError(of, resets, status=status)
    account = _ACCOUNT.search(text)
    return ProviderError(of, resets, window_of(text), account[1] if account else None, status)


def told_by_provider(words: str) -> str:
    """*words* without what was said of requests on the side, line by line; a provider's own error is never one."""
    lines = words.splitlines() or [words]
    return "\n".join(line for line in lines if has_any(PROVIDERS, line) or not has_any(SIDE, line))


def window_of(words: str) -> str | None:
    """The window of a limit, as it is called everywhere; None when *words* name none."""
    return next((name for pattern, name in WINDOWS if re.search(pattern, words, re.IGNORECASE)), None)


def _class_of_words(text: str, named: Sequence[ProviderErrorClass], *, lost_connection: bool) -> ProviderErrorClass:
    """By the types of errors that are *named*, else by the words."""
    limited = ProviderErrorClass.LIMIT in named or _is_limit(text)
    if lost_connection:
        return ProviderErrorClass.LIMIT if limited else ProviderErrorClass.TRANSIENT
    if named:
        if ProviderErrorClass.LOG_IN in named:
            return ProviderErrorClass.LOG_IN
        return ProviderErrorClass.LIMIT if limited and named[0] is not ProviderErrorClass.REFUSED else named[0]
    row = next((row for row in TABLE if row.has_words(text)), None)
    if row is None:
        return ProviderErrorClass.FAILED
    return ProviderErrorClass.TRANSIENT if row is LIMIT and not limited else row.of  # a limit of a minute is over soon


def _class_of_status(text: str, status: int, named: Sequence[ProviderErrorClass]) -> ProviderErrorClass:
    """By the status; what is limited, and who is not logged in, the words know better."""
    limited = ProviderErrorClass.LIMIT in named or _is_limit(text)
    usual = BY_STATUS.get(status, ProviderErrorClass.TRANSIENT if status >= _SERVER else ProviderErrorClass.REFUSED)
    if TOO_LARGE.has_words(text) and status < _SERVER:
        return ProviderErrorClass.REFUSED
    if usual is ProviderErrorClass.TRANSIENT:
        return ProviderErrorClass.LIMIT if limited and status in LIMITED else usual
    if usual in (ProviderErrorClass.REFUSED, ProviderErrorClass.LOG_IN) and limited:
        return ProviderErrorClass.LIMIT
    if usual is ProviderErrorClass.REFUSED and (ProviderErrorClass.LOG_IN in named or LOG_IN.has_words(text)):
        return ProviderErrorClass.LOG_IN
    return usual


def _is_limit(text: str) -> bool:
    """Whether the words tell of a limit that an account has used up, and not only of a busy minute."""
    return LIMIT.has_words(text) and (not has_any(BUSY_MINUTE, text) or has_any(USED_UP, text))
