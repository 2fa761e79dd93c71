"""The table of provider errors by error type, HTTP status and words, for provider_errors.

``words`` are regular expressions that ignore case. The first row that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class ProviderErrorClass(StrEnum):
    """What follows from an error."""

    TRANSIENT = "transient"  # retried later, not counted as a failure
    LIMIT = "limit"  # the account has reached a limit: retried at the reset, not counted as a failure
    REFUSED = "refused"  # the request would be refused again: failed, not retried
    LOG_IN = "log-in missing"  # failed, not retried; the error names the variable to set
    FAILED = "failed"  # failed, retried if attempts are left

    @property
    def waits(self) -> bool:
        """Return whether the task waits and is retried, without counting a failure."""
        return self in (ProviderErrorClass.TRANSIENT, ProviderErrorClass.LIMIT)

    @property
    def repeatable(self) -> bool:
        """Return whether another attempt may succeed."""
        return self not in (ProviderErrorClass.REFUSED, ProviderErrorClass.LOG_IN)


@dataclass(frozen=True, slots=True)
class ErrorPattern:
    """One row of the table: the class of errors with these types, statuses or words."""

    error_class: ProviderErrorClass
    types: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    words: tuple[str, ...] = ()

    def has_words(self, text: str) -> bool:
        """Return whether *text* contains words of the row."""
        return bool(self.words) and _any_of(self.words).search(text) is not None


TOO_LARGE = ErrorPattern(
    ProviderErrorClass.REFUSED,
    types=("request_too_large", "context_length_exceeded", "contextoverflowerror", "messageoutputlengtherror"),
    statuses=(413,),
    words=(
        r"prompt is too long",
        r"context (?:window|length|limit)",
        r"maximum context",
        r"input (?:is )?too long",
        r"too many (?:input )?tokens(?!,? (?:per |please wait|you))",  # Bedrock's limit per minute
        r"request (?:is )?too large",
        r"exceeds the (?:maximum|context|model)",
        r"output token maximum",
    ),
)
LIMIT = ErrorPattern(
    ProviderErrorClass.LIMIT,
    types=(
        *("insufficient_quota", "usage_limit_reached", "usage_limit_exceeded", "usagelimitexceeded"),
        *("billing_error", "quota_exceeded", "quotaexceeded", "billing_hard_limit_reached", "credits_exhausted"),
        *("usage_not_included", "terminalquotaerror", "freeusagelimiterror", "servicequotaexceededexception"),
    ),
    statuses=(402,),
    words=(
        r"usage limits?\b|free usage exceeded|extra usage is required",
        r"\b(?:session|hourly|daily|weekly|monthly|[57].?(?:hour|day)|five.?hour|seven.?day)s?\s+limits?\b",
        r"\b(?:opus|sonnet|haiku|plan|account|spend|spending|message|request|credits?|subscription|cost)\s+limits?\b",
        r"\b(?:hit|reached|exceeded|used up|exhausted|over)\b[^.\n]{0,30}\blimits?\b",
        r"\blimit (?:has been )?(?:reached|exceeded|hit)\b",
        r"\bquota\b",
        r"out of (?:extra )?(?:usage|credits?|tokens)",
        r"credit balance",
        r"(?:insufficient|not enough|no) (?:credits?|funds|balance)",
        r"billing (?:hard )?limit",
        r"payment required",
        r"requires more credits",
        r"spend(?:ing)? cap\b",
        r"too many tokens per day",
        r"to use \w+ with your \w+ plan, upgrade",
    ),
)
LOG_IN = ErrorPattern(
    ProviderErrorClass.LOG_IN,
    types=(
        *("authentication_error", "authentication_failed", "invalid_api_key", "providerautherror", "unauthenticated"),
        *("token_expired", "loadapikeyerror", "ai_loadapikeyerror", "api_key_invalid", "oauth_org_not_allowed"),
        *("refresh_token_expired", "refresh_token_reused", "missing_api_key", "fatalauthenticationerror"),
    ),
    statuses=(401,),
    words=(
        r"run[ `'\"]*(?:/login|claude (?:/login|setup-token|auth login)|codex login|opencode auth login|gemini auth)",
        r"not (?:logged|signed) in",
        r"(?:log|logged|sign|signed|signing|logging) ?in (?:again|required)",
        r"please (?:log|sign) in",
        r"(?:invalid|incorrect|missing|expired|wrong|bad|no|revoked) (?:x-)?api.?key",
        r"(?:invalid|incorrect|missing|expired|wrong|bad|no|revoked) (?:authentication|bearer|credentials)",
        r"(?:invalid|incorrect|missing|expired|wrong|bad|no|revoked) (?:auth|access|oauth) token",
        r"api.?key (?:is |was )?(?:not (?:valid|found|set|provided)|invalid|missing|expired|required|revoked|blocked)",
        r"missing environment variable",
        r"environment variable[^.\n]{0,40}(?:not set|is missing|is required)",
        r"(?:set|specify|provide)[^.\n]{0,60}(?:API_KEY|AUTH_TOKEN|OAUTH_TOKEN)\b",
        r"set an auth method",
        r"(?:oauth|access|refresh) token[^.\n]{0,40}(?:expired|revoked|invalid|refresh|already used)",
        r"(?:security|authentication) token[^.\n]{0,40}(?:expired|revoked|invalid)|\binvalid_grant\b",
        r"(?:load|locate)[^.\n]{0,20} credentials|no auth credentials",
        r"aws sso login|gcloud auth (?:application-default )?login|reauthentication is (?:needed|required)",
        r"(?:didn.t|did not) provide an api.?key|[A-Z]_API_KEY\b[^.\n]{0,30} not found",
        r"oauth authentication is (?:currently )?not supported",
        r"unauthori[sz]ed",
        r"authentication (?:failed|fails|required|error)",
        r"failed to authenticate",
        r"does not have access to claude",
    ),
)
TRANSIENT = ErrorPattern(
    ProviderErrorClass.TRANSIENT,
    types=(
        *("overloaded_error", "overloaded", "rate_limit_error", "rate_limit_exceeded", "rate_limit", "api_error"),
        *("server_error", "internal_server_error", "internal_error", "service_unavailable", "timeout_error", "timeout"),
        *("resource_exhausted", "unavailable", "internal", "deadline_exceeded", "server_is_overloaded", "slow_down"),
        *("model_capacity_exhausted", "retryablequotaerror", "connection_error", "apiconnectionerror"),
        *("upstream_error", "engine_overloaded", "temporarily_unavailable", "bad_gateway", "aborted", "stream_error"),
        "provider_error",
    ),
    statuses=(408, 409, 425, 429),  # and all from 500
    words=(
        r"connection[^.\n]{0,40}(?:error|closed|reset|lost|aborted|refused|broke|dropped|terminated|interrupted)",
        r"connection[^.\n]{0,40}(?:failed|timed out|ended)",
        r"(?:lost|closed|reset|aborted|dropped|broke)[^.\n]{0,15} connection",
        r"(?:cannot|unable to) connect",
        r"\bE(?:CONN[A-Z]+|TIMEDOUT|PIPE|NOTFOUND|AI_AGAIN|HOSTUNREACH|NETUNREACH)\b",
        r"socket (?:hang up|connection|closed|timeout)|other side closed",
        r"fetch failed|network (?:error|connection|is unreachable|timeout)|networkerror",
        r"premature close|error sending request|upstream (?:connect )?error|getaddrinfo|dns error|TLS handshake",
        r"stream[^.\n]{0,40}(?:disconnected|closed|ended|idle|error|interrupted|stalled|incomplete|broke|timed out)",
        r"mid-?(?:response|stream)",
        r"(?:response|answer|message) (?:was )?(?:stalled|interrupted|incomplete|ended early|broke|cut off|truncated)",
        r"incomplete (?:response|stream|message|chunked)|(?:partial|empty) response from|without a finish reason",
        r"idle timeout",
        r"^\W*(?:api error:\W*)?(?:terminated|aborted)\W*$",
        r"(?:request|response|api|provider|server|model|stream|headers|body|gateway)[^.\n]{0,20} tim(?:ed|e) ?out",
        r"^\W*(?:api error:\W*)?tim(?:ed|e) ?out\b|(?:headers|body) timeout",
        r"overloaded|high demand|too busy|is busy|heavy load|under load",
        r"(?:at|over|no) capacity|capacity (?:is )?(?:available|exhausted|exceeded)",
        r"internal (?:server )?error|server had an error|server error",
        r"bad gateway|gateway time-?out|service (?:is )?(?:temporarily )?unavailable",
        r"temporarily (?:un|not )available|currently unavailable|provider returned error",
        r"too many requests|too many tokens, please wait|rate.?limit|request was aborted|reconnecting\b",
        r"(?:throttling|service ?unavailable|model ?not ?ready|model ?timeout|model ?stream ?error) ?exception",
    ),
)
REFUSED = ErrorPattern(
    ProviderErrorClass.REFUSED,
    types=(
        *("invalid_request_error", "invalid_request", "permission_error", "not_found_error", "invalid_argument"),
        *("permission_denied", "not_found", "failed_precondition", "model_not_found", "providermodelnotfounderror"),
        *("content_policy_violation", "invalid_prompt", "unsupported_value", "max_output_tokens", "cyber_policy"),
    ),
    words=(
        r"model[^.\n]{0,60}(?:not found|does not exist|not supported|not available|may not exist|is invalid)",
        r"(?:issue with|unknown|invalid|no such) (?:the )?(?:selected )?model|model ?not ?found",
        r"(?:access to|must be verified to use) the model|unsupported country",
        r"usage polic(?:y|ies)|content (?:policy|filter)|safety (?:system|reasons)|terms of service",
    ),
)

TABLE: Sequence[ErrorPattern] = (TOO_LARGE, LIMIT, LOG_IN, TRANSIENT, REFUSED)
"""The rows in the order in which they are tried; errors that match none are FAILED."""

BY_TYPE = {name: row.error_class for row in reversed(TABLE) for name in row.types}
BY_STATUS = {status: row.error_class for row in TABLE for status in row.statuses}

LIMITED = (402, 403, 429, 503, 529)
"""Statuses that may mean a limit, depending on the words."""

BUSY_MINUTE = (
    r"rate.?limit|per[ -](?:min(?:ute)?|sec(?:ond)?)\b|\b[TR]P[MS]\b|too many (?:concurrent )?requests|concurrency",
    r"acceleration limit",
)
"""Words of a limit per minute, which ends soon: the provider is only busy, unless QUOTA_USED_UP matches too."""

QUOTA_USED_UP = (
    *(r"usage limit", r"insufficient_quota", r"credit", r"per.?day", r"daily|weekly|monthly", r"extra usage"),
    r"\bquota\b(?![^\n]*per[ -]minute)",
)
"""Words of an account's exhausted quota."""

SIDE_REQUESTS = (
    r"telemetr|statistic|statsig|analytic|sentry|datadog|segment\.io|growthbook|opentelemetry|\botel\b|metrics",
    r"event.?logging|log(?:ging)? event|crash report|feature flag",
    r"auto.?update|update check|check(?:ing)? for updates|version check|npm registry|release notes|changelog",
    r"AxiosError|\bmcp\b|plugin|marketplace|\bhook\b|\blsp\b|language server|ide connection",
    r"title generation|generat\w+ (?:a )?title|web.?fetch|web.?search",
)
"""Words of side requests. A line about them means nothing about the provider."""

PROVIDERS = (r"^\W*(?:\[?API Error|unexpected status|exceeded retry limit|stream disconnected)",)
"""Beginnings of lines with a provider's own error, whatever words follow."""

WINDOWS = (
    (r"5.?hours?\b|five.?hour|\bsession\b", "5-hour"),
    (r"opus", "weekly Opus"),
    (r"sonnet", "weekly Sonnet"),
    (r"week|seven.?day|7.?days?\b", "weekly"),
    (r"per.?day|daily|\bR?T?PD\b|24.?hour", "daily"),
    (r"month|spend|billing(?! details)|credit", "monthly"),
    (r"per.?hour|hourly", "hourly"),
    (r"per.?min|\b[TR]PM\b", "one-minute"),
    (r"overage|extra usage", "extra usage"),
)
"""The names of limits' windows, by words in messages."""


def has_any(patterns: tuple[str, ...], text: str) -> bool:
    """Return whether *text* matches one of the *patterns*."""
    return _any_of(patterns).search(text) is not None


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
