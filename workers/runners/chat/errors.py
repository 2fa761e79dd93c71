"""What it means when a call of a model goes wrong: wait, give up, or try again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    ModelUnavailableError,
    UserError,
)

from coordination.errors import Refused
from workers.runners.agents.base import at
from workers.runners.agents.failures import Failure
from workers.runners.output import clean_text, one_line

_LONGEST = 300
_REFUSED, _BUSY = 400, 503


class GaveUp(Exception):
    """The conversation ends here, and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def failure_of(error: Exception, *, chat: str) -> Failure:  # noqa: PLR0911 - a table
    """What *error* means for the attempt."""
    match error:
        case GaveUp():
            return error.failure
        case Refused():
            return Failure(error.sentence(), _REFUSED)
        case ModelHTTPError():
            return Failure(_line(f"{chat}: {error.status_code}: {_said(error)}"), error.status_code)
        case ModelConnectionError():
            return Failure(_line(f"{chat}: the connection was lost: {_at_the_bottom(error)}"), lost_connection=True)
        case httpx2.TransportError():  # a tool's: those of models come wrapped
            return Failure(_line(f"The connection to {_host(error)} was lost: {_said(error)}"), lost_connection=True)
        case ModelRateLimitError() | ModelUnavailableError() | ModelServerError():
            return Failure(_line(f"{chat}: {_said(error)}"), _BUSY)
        case ModelRequestRejectedError():
            return Failure(_line(f"{chat}: {_said(error)}"), _REFUSED)
        case UserError():
            return Failure(_line(f"{chat} cannot do this: {error.message}"), _REFUSED)
    return Failure(_line(f"{chat} answered what cannot be understood: {_said(error)}"))


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
    return isinstance(error, GaveUp) or (isinstance(error, ExceptionGroup) and any(map(_gave_up, error.exceptions)))


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
