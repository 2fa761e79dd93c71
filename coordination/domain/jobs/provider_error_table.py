"""The table of providers' troubles: by the type of an error, by HTTP status, by words. Pure; read by provider_troubles.

Words are regular expressions, whatever the case of letters. The first row that holds counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class ProviderErrorClass(StrEnum):
    """What follows from a trouble."""

    TRANSIENT = "transient"  # tried again later, charged to nobody
    LIMIT = "limit"  # the account has used up what it may: tried again at the reset, charged to nobody
    REFUSED = "refused"  # the request is refused, and would be again: failed, and not repeated
    LOG_IN = "log-in missing"  # failed, and not repeated; it says which variable to set
    FAILED = "failed"  # failed; repeated if attempts are left

    @property
    def waits(self) -> bool:
        """Whether it is charged to nobody and tried again later."""
        return self in (ProviderErrorClass.TRANSIENT, ProviderErrorClass.LIMIT)

    @property
    def repeatable(self) -> bool:
        """Whether another attempt may do better."""
        return self not in (ProviderErrorClass.REFUSED, ProviderErrorClass.LOG_IN)


@dataclass(frozen=True, slots=True)
class ErrorPattern:
    """One row of the table: it holds for these types of errors, these statuses, and these words."""

    of: ProviderErrorClass
    types: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    words: tuple[str, ...] = ()

    def has_words(self, text: str) -> bool:
        """Whether the words of the row stand in *text*."""
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
        r"too many (?:input )?tokens(?!,? (?:per |please wait|you))",  # which is a busy minute, as Bedrock says it
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
    statuses=(408, 409, 425, 429),  # and all from 500 on
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
"""In the order in which they are asked; what no row knows has failed."""

BY_TYPE = {name: row.of for row in reversed(TABLE) for name in row.types}
BY_STATUS = {status: row.of for row in TABLE for status in row.statuses}

LIMITED = (402, 403, 429, 503, 529)
"""Statuses with which providers tell that a limit is reached, if the words say so."""

BUSY_MINUTE = (
    r"rate.?limit|per[ -](?:min(?:ute)?|sec(?:ond)?)\b|\b[TR]P[MS]\b|too many (?:concurrent )?requests|concurrency",
    r"acceleration limit",
)
"""A limit of a minute, which is over soon, is a busy provider,"""

USED_UP = (
    *(r"usage limit", r"insufficient_quota", r"credit", r"per.?day", r"daily|weekly|monthly", r"extra usage"),
    r"\bquota\b(?![^\n]*per[ -]minute)",
)
"""unless these words stand beside it."""

SIDE = (
    r"telemetr|statistic|statsig|analytic|sentry|datadog|segment\.io|growthbook|opentelemetry|\botel\b|metrics",
    r"event.?logging|log(?:ging)? event|crash report|feature flag",
    r"auto.?update|update check|check(?:ing)? for updates|version check|npm registry|release notes|changelog",
    r"AxiosError|\bmcp\b|plugin|marketplace|\bhook\b|\blsp\b|language server|ide connection",
    r"title generation|generat\w+ (?:a )?title|web.?fetch|web.?search",
)
"""Requests on the side: what is said of them in a line says nothing of the provider."""

PROVIDERS = (r"^\W*(?:\[?API Error|unexpected status|exceeded retry limit|stream disconnected)",)
"""A line that begins so is the provider's, whatever words follow."""

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
"""What a limit's window is called, by words and by the names of programs."""


def has_any(patterns: tuple[str, ...], text: str) -> bool:
    """Whether one of the *patterns* stands in *text*."""
    return _any_of(patterns).search(text) is not None


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)
