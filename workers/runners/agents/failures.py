"""Why an agent or a chat gave up, and what that means for its attempt."""

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
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.output import clean_text, one_line

LONGEST_SENTENCE = 300


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """Why it gave up. *status*: the HTTP status of its provider's answer, when that was it. *known*: what is known of
    the trouble besides; without it, the status decides."""

    sentence: str
    status: int | None = None
    lost_connection: bool = False
    known: ProviderError | None = None

    @property
    def trouble(self) -> ProviderError:
        """What it means, by the table of ``domain.jobs.provider_errors``."""
        if self.known is not None:
            return self.known
        return classify("", status=self.status, lost_connection=self.lost_connection, now=utc_now())

    @property
    def error_class(self) -> ProviderErrorClass:
        """The class of the error."""
        return self.trouble.error_class

    @property
    def outcome(self) -> Outcome:
        """A busy or broken provider and a limit are waited for and charged to nobody; whatever else is a failure."""
        return Outcome.DEFERRED if self.error_class.waits else Outcome.FAILED

    @property
    def retryable(self) -> bool:
        """Whether another attempt may do better: a request that the provider refuses is refused again."""
        return self.error_class.repeatable

    def ended(self, *, account: str) -> dict[str, Any]:
        """The fields of an AttemptEnd that ends so. *account*: whose limit it is, where the provider names nobody."""
        trouble, limit = self.trouble, None
        if trouble.error_class is ProviderErrorClass.LIMIT:
            limit = ProviderLimit(trouble.account or account, trouble.window, trouble.resets_at)
        return {
            "outcome": self.outcome,
            "error": self.sentence,
            "retryable": self.retryable,
            "limit": limit,
            "not_before": not_before(trouble, now=utc_now()),
        }

    def apply(self, result: AttemptEnd, *, account: str) -> AttemptEnd:
        """*result*, ended so."""
        return replace(result, **self.ended(account=account))


def failure_of_words(
    sentence: str,
    *,
    words: str | None = None,
    status: int | None = None,
    type_: str | None = None,
    lost_connection: bool = False,
    otherwise: ProviderErrorClass = ProviderErrorClass.FAILED,
) -> AgentFailure:
    """What a program's own words mean. *words*: all of them, if *sentence* is an excerpt; *otherwise*: the class of
    what the table does not know."""
    now = utc_now()
    local = now.astimezone().tzinfo  # this machine's
    assert local is not None  # noqa: S101 - it has one
    trouble = classify(
        sentence if words is None else words,
        status=status,
        type_=type_,
        lost_connection=lost_connection,
        now=now,
        local=local,
    )
    if trouble.error_class is ProviderErrorClass.FAILED and otherwise is not ProviderErrorClass.FAILED:
        trouble = replace(trouble, error_class=otherwise)
    return AgentFailure(one_line(clean_text(sentence), LONGEST_SENTENCE), trouble.status, lost_connection, trouble)


def with_limit(failure: AgentFailure, limit: ProviderLimit | None) -> AgentFailure:
    """*failure* with what the provider told before of the *limit* that it has reached."""
    trouble = failure.trouble
    unknown = trouble.error_class is ProviderErrorClass.FAILED and failure.status is None
    busy = (
        trouble.error_class is ProviderErrorClass.TRANSIENT
        and failure.status in (None, _TOO_MANY)
        and not failure.lost_connection
    )
    if limit is None or not (trouble.error_class is ProviderErrorClass.LIMIT or unknown or busy):
        return failure
    known = replace(
        trouble,
        error_class=ProviderErrorClass.LIMIT,
        resets_at=limit.resets_at or trouble.resets_at,
        window=limit.window or trouble.window,
        account=trouble.account or limit.account,
    )
    return replace(failure, known=known)


def not_before(trouble: ProviderError, *, now: datetime) -> datetime | None:
    """The moment before which another attempt would meet the same trouble; None: nobody knows."""
    if trouble.error_class is ProviderErrorClass.LIMIT:
        return trouble.resets_at or now + UNNAMED_RESET
    if trouble.error_class is ProviderErrorClass.TRANSIENT and trouble.resets_at is not None:
        return min(trouble.resets_at, now + LONGEST_RETRY_AFTER)
    return None


_TOO_MANY = 429
