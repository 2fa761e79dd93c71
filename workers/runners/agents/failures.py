"""The failures of agents and chats, and how they end an attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from coordination.base.clock import utc_now
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.jobs.provider_errors import (
    LONGEST_RETRY_AFTER,
    UNNAMED_RESET,
    ProviderError,
    ProviderLimit,
    classify,
)
from coordination.domain.tasks.attempts import Outcome
from workers.runners.output import clean_text, one_line

LONGEST_SENTENCE = 300


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """Why an agent gave up. *status*: the HTTP status of its provider. *known*: the classified error; without it, the
    status decides."""

    sentence: str
    status: int | None = None
    lost_connection: bool = False
    known: ProviderError | None = None

    @property
    def provider_error(self) -> ProviderError:
        """Return the error, classified by ``domain.jobs.provider_error_table``."""
        if self.known is not None:
            return self.known
        return classify("", status=self.status, lost_connection=self.lost_connection, now=utc_now())

    @property
    def error_class(self) -> ProviderErrorClass:
        """Return the class of the error."""
        return self.provider_error.error_class

    @property
    def outcome(self) -> Outcome:
        """Return DEFERRED, which counts as no failure, for an unavailable provider or a limit; else FAILED."""
        return Outcome.DEFERRED if self.error_class.waits else Outcome.FAILED

    @property
    def retryable(self) -> bool:
        """Return whether another attempt may succeed; a refused request would be refused again."""
        return self.error_class.repeatable

    def end_fields(self, *, account: str) -> dict[str, Any]:
        """Return fields of the AttemptEnd. *account*: whose limit it is, if the provider names no account."""
        error, limit = self.provider_error, None
        if error.error_class is ProviderErrorClass.LIMIT:
            limit = ProviderLimit(error.account or account, error.window, error.resets_at)
        return {
            "outcome": self.outcome,
            "error": self.sentence,
            "retryable": self.retryable,
            "limit": limit,
            "not_before": earliest_retry(error, now=utc_now()),
        }


def classify_failure(
    sentence: str,
    *,
    words: str | None = None,
    status: int | None = None,
    type_: str | None = None,
    lost_connection: bool = False,
    otherwise: ProviderErrorClass = ProviderErrorClass.FAILED,
) -> AgentFailure:
    """Classify a program's message. *words*: the whole message, if *sentence* is an excerpt; *otherwise*: the class of
    messages that the table does not have."""
    now = utc_now()
    local = now.astimezone().tzinfo
    assert local is not None  # noqa: S101 - astimezone sets it
    error = classify(
        sentence if words is None else words,
        status=status,
        type_=type_,
        lost_connection=lost_connection,
        now=now,
        local=local,
    )
    if error.error_class is ProviderErrorClass.FAILED and otherwise is not ProviderErrorClass.FAILED:
        error = replace(error, error_class=otherwise)
    return AgentFailure(one_line(clean_text(sentence), LONGEST_SENTENCE), error.status, lost_connection, error)


def with_limit(failure: AgentFailure, limit: ProviderLimit | None) -> AgentFailure:
    """Return *failure* as one of *limit*, which the provider has reported as reached, if it can be its cause."""
    error = failure.provider_error
    is_unknown = error.error_class is ProviderErrorClass.FAILED and failure.status is None
    is_busy = (
        error.error_class is ProviderErrorClass.TRANSIENT
        and failure.status in (None, _TOO_MANY_REQUESTS)
        and not failure.lost_connection
    )
    if limit is None or not (error.error_class is ProviderErrorClass.LIMIT or is_unknown or is_busy):
        return failure
    known = replace(
        error,
        error_class=ProviderErrorClass.LIMIT,
        resets_at=limit.resets_at or error.resets_at,
        window=limit.window or error.window,
        account=error.account or limit.account,
    )
    return replace(failure, known=known)


def earliest_retry(error: ProviderError, *, now: datetime) -> datetime | None:
    """Return when another attempt may succeed at the earliest; None: unknown."""
    if error.error_class is ProviderErrorClass.LIMIT:
        return error.resets_at or now + UNNAMED_RESET
    if error.error_class is ProviderErrorClass.TRANSIENT and error.resets_at is not None:
        return min(error.resets_at, now + LONGEST_RETRY_AFTER)
    return None


_TOO_MANY_REQUESTS = 429
