"""What it means when a call of a model goes wrong: wait, give up, or try again."""

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
from workers.runners.agents.base import at
from workers.runners.agents.failures import AgentFailure, failure_of_words
from workers.runners.chat.http import AnsweredWithError
from workers.runners.output import clean_text, one_line

_LONGEST = 300
_LONGEST_BODY = 4_000
_REFUSED, _FORBIDDEN = 400, 403


class ChatGaveUp(Exception):
    """The conversation ends here, and why."""

    def __init__(self, failure: AgentFailure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def failure_of(error: Exception, *, chat: str) -> AgentFailure:  # noqa: PLR0911 - a table
    """What *error* means for the attempt."""
    match error:
        case ChatGaveUp():
            return error.failure
        case Refused():
            return AgentFailure(error.sentence(), _REFUSED)
        case AnsweredWithError():
            return failure_of_words(_line(f"{chat}: {error.sentence}"), words=error.words, status=error.status)
        case httpx2.TransportError():  # a tool's: those of models come wrapped
            return AgentFailure(
                _line(f"The connection to {_host(error)} was lost: {_said(error)}"), lost_connection=True
            )
        case UserError():
            return AgentFailure(_line(f"{chat} cannot do this: {error.message}"), _REFUSED)
        case ModelAPIError():
            return _of_provider(error, chat)
    return AgentFailure(_line(f"{chat} answered what cannot be understood: {_said(error)}"))


def _of_provider(error: ModelAPIError, chat: str) -> AgentFailure:
    """By status, type and words; where these say nothing, by the kind of error that the library takes it for."""
    if (told := _told_in_body(error)) is not None:
        return failure_of(told, chat=chat)
    said, lost = _said(error), isinstance(error, ModelConnectionError)
    status = error.status_code if isinstance(error, ModelHTTPError) else _status_in(error.body)
    named = status if isinstance(error, ModelHTTPError) else None
    sentence = f"{chat}: {named}: {said}" if named else f"{chat}: {said}"
    if lost:
        sentence = f"{chat}: the connection was lost: {_at_the_bottom(error)}"
    wait = f"retry-after: {error.retry_after}" if error.retry_after is not None else ""
    code = error.provider_error_code or error.provider_error_type
    kind = next((name for kind, name in _TYPES.items() if isinstance(error, kind)), code)
    failure = failure_of_words(
        _line(sentence),
        words="\n".join(filter(None, [said, _body_of(error), wait])),
        status=status,
        type_=code if status == _FORBIDDEN else kind,  # which the library takes for a refused log-in
        lost_connection=lost,
        otherwise=next((of for kind, of in _KINDS.items() if isinstance(error, kind)), ProviderErrorClass.FAILED),
    )
    if failure.error_class is ProviderErrorClass.FAILED:
        return replace(failure, sentence=_line(f"{chat} answered what cannot be understood: {said}"))
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


def _told_in_body(error: BaseException) -> AnsweredWithError | None:
    """The error that stood in the body of an answer whose status says that all is well."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, AnsweredWithError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _status_in(body: object) -> int | None:
    code = at(body, "error", "code") or at(body, "code") or at(body, "status")
    text = str(code)
    return int(text) if text.isascii() and text.isdigit() and len(text) == len("503") else None


def _body_of(error: ModelAPIError) -> str:
    if not isinstance(error.body, Mapping):
        return ""
    return json.dumps(error.body, default=str)[:_LONGEST_BODY]


def cause_of(error: Exception) -> Exception:
    """The one error in a group: task groups wrap what ended them."""
    while isinstance(error, ExceptionGroup):
        error = next((one for one in error.exceptions if _gave_up(one)), error.exceptions[0])
    return error


def was_sent(error: BaseException) -> bool:
    """Whether the provider may have begun to answer, and so to count, when this ended the call."""
    return isinstance(error, asyncio.CancelledError) or (
        isinstance(error, ModelConnectionError) and error.phase == "read"
    )


def retry_after(error: Exception) -> float | None:
    """Seconds that the provider asked to wait."""
    return error.retry_after if isinstance(error, ModelAPIError) else None


def _gave_up(error: Exception) -> bool:
    return isinstance(error, ChatGaveUp) or (isinstance(error, ExceptionGroup) and any(map(_gave_up, error.exceptions)))


def _host(error: httpx2.TransportError) -> str:
    try:
        return error.request.url.netloc.decode()
    except RuntimeError:  # it knows of no request
        return "a tool server"


def _at_the_bottom(error: BaseException) -> str:
    """What the system said: the libraries in between say that there was an error."""
    text = ""
    cause: BaseException | None = error
    while cause is not None:
        text, cause = str(cause) or text or type(cause).__name__, cause.__cause__
    return text


def _said(error: Exception) -> str:
    """The provider's own words, if there are any."""
    body: Any = getattr(error, "body", None)
    for words in (at(body, "error", "message"), at(body, "message"), at(body, "error"), body):
        if isinstance(words, str) and words.strip():
            return words
    text = error.message if isinstance(error, ModelAPIError) and not isinstance(body, Mapping) else str(error)
    return text or type(error).__name__


def _line(text: str) -> str:
    return one_line(clean_text(text), _LONGEST)
