"""Classifies the errors of model calls and tool servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx2
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelUnavailableError,
    UserError,
)

from coordination.base.errors import Refused
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from workers.runners.agents.base import value_at
from workers.runners.agents.failures import AgentFailure, classify_failure
from workers.runners.chat.http import AnsweredWithError
from workers.runners.output import clean_text, one_line

_LONGEST = 300
_LONGEST_BODY = 4_000
_REFUSED, _FORBIDDEN = 400, 403


class ChatGaveUp(Exception):
    """The conversation ends with *failure*."""

    def __init__(self, failure: AgentFailure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def failure_from_error(error: Exception, *, chat: str) -> AgentFailure:  # noqa: PLR0911 - a table
    """Return the failure of the attempt that *error* causes."""
    match error:
        case ChatGaveUp():
            return error.failure
        case Refused():
            return AgentFailure(error.sentence(), _REFUSED)
        case AnsweredWithError():
            return classify_failure(_line(f"{chat}: {error.sentence}"), words=error.words, status=error.status)
        case httpx2.TransportError():  # of a tool: errors of models are wrapped
            return AgentFailure(
                _line(f"The connection to {_host(error)} was lost: {_message(error)}"), lost_connection=True
            )
        case UserError():
            return AgentFailure(_line(f"{chat} cannot do this: {error.message}"), _REFUSED)
        case ModelAPIError():
            return _of_provider(error, chat)
    return AgentFailure(_line(f"{chat} answered what cannot be understood: {_message(error)}"))


def _of_provider(error: ModelAPIError, chat: str) -> AgentFailure:
    """Classify by status, type and message; if these are unknown, by the library's error class."""
    if (error_in_body := _error_in_body(error)) is not None:
        return failure_from_error(error_in_body, chat=chat)
    message, is_lost = _message(error), isinstance(error, ModelConnectionError)
    status = error.status_code if isinstance(error, ModelHTTPError) else _status_in(error.body)
    shown = status if isinstance(error, ModelHTTPError) else None
    sentence = f"{chat}: {shown}: {message}" if shown else f"{chat}: {message}"
    if is_lost:
        sentence = f"{chat}: the connection was lost: {_first_cause(error)}"
    wait = f"retry-after: {error.retry_after}" if error.retry_after is not None else ""
    code = error.provider_error_code or error.provider_error_type
    kind = next((name for kind, name in _TYPES.items() if isinstance(error, kind)), code)
    failure = classify_failure(
        _line(sentence),
        words="\n".join(filter(None, [message, _body_of(error), wait])),
        status=status,
        type_=code if status == _FORBIDDEN else kind,  # which the library classifies as a failed login
        lost_connection=is_lost,
        otherwise=next((of for kind, of in _KINDS.items() if isinstance(error, kind)), ProviderErrorClass.FAILED),
    )
    if failure.error_class is ProviderErrorClass.FAILED:
        return replace(failure, sentence=_line(f"{chat} answered what cannot be understood: {message}"))
    return failure


_TYPES = {
    ModelQuotaExceededError: "insufficient_quota",
    ModelAuthenticationError: "authentication_error",
    ModelContextWindowExceededError: "context_length_exceeded",
}
_KINDS = {
    ModelRateLimitError: ProviderErrorClass.TRANSIENT,
    ModelUnavailableError: ProviderErrorClass.TRANSIENT,
    ModelServerError: ProviderErrorClass.TRANSIENT,
    ModelRequestRejectedError: ProviderErrorClass.REFUSED,
}


def _error_in_body(error: BaseException) -> AnsweredWithError | None:
    """Return the error in the body of an answer with a success status."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AnsweredWithError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _status_in(body: object) -> int | None:
    code = value_at(body, "error", "code") or value_at(body, "code") or value_at(body, "status")
    text = str(code)
    return int(text) if text.isascii() and text.isdigit() and len(text) == len("503") else None


def _body_of(error: ModelAPIError) -> str:
    if not isinstance(error.body, Mapping):
        return ""
    return json.dumps(error.body, default=str)[:_LONGEST_BODY]


def root_cause(error: Exception) -> Exception:
    """Unwrap the error of a task group."""
    while isinstance(error, ExceptionGroup):
        error = next((each for each in error.exceptions if _gave_up(each)), error.exceptions[0])
    return error


def was_sent(error: BaseException) -> bool:
    """Return whether the provider may have begun to answer, and to charge, before the error."""
    return isinstance(error, asyncio.CancelledError) or (
        isinstance(error, ModelConnectionError) and error.phase == "read"
    )


def _gave_up(error: Exception) -> bool:
    return isinstance(error, ChatGaveUp) or (isinstance(error, ExceptionGroup) and any(map(_gave_up, error.exceptions)))


def _host(error: httpx2.TransportError) -> str:
    try:
        return error.request.url.netloc.decode()
    except RuntimeError:  # it has no request
        return "a tool server"


def _first_cause(error: BaseException) -> str:
    """Return the message of the first cause: the libraries that wrap it add no detail."""
    text = ""
    cause: BaseException | None = error
    while cause is not None:
        text, cause = str(cause) or text or type(cause).__name__, cause.__cause__
    return text


def _message(error: Exception) -> str:
    """Return the provider's message, if there is one, else the error's."""
    body: Any = getattr(error, "body", None)
    for words in (value_at(body, "error", "message"), value_at(body, "message"), value_at(body, "error"), body):
        if isinstance(words, str) and words.strip():
            return words
    text = error.message if isinstance(error, ModelAPIError) and not isinstance(body, Mapping) else str(error)
    return text or type(error).__name__


def _line(text: str) -> str:
    return one_line(clean_text(text), _LONGEST)
