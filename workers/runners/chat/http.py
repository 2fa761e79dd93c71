"""HTTP clients of conversations: own connections and cookies, shared certificates, a limit of the response size."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache
from typing import Any

import httpx2

LARGEST = 64 * 1024 * 1024
"""Bytes of one response as transferred; a larger one counts as a lost connection."""

_DIGITS = 3  # of an HTTP status
_LONGEST = 4_000
_SECONDS = httpx2.Timeout(600, connect=10)


class AnsweredWithError(Exception):
    """An answer with a success status whose body is an error.

    ``sentence``: its message; ``words``: the whole body; ``status``: the status in the body.
    """

    def __init__(self, sentence: str, words: str, status: int | None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.words = words
        self.status = status


def make_client(headers: Mapping[str, str] | None = None, *, of_model: bool = False) -> httpx2.AsyncClient:
    """Return a client for the caller to close, with the proxies and certificates of the worker's environment.

    *of_model*: raise AnsweredWithError for an answer whose body is an error.
    """
    hooks = [_bound, _check_body] if of_model else [_bound]
    return httpx2.AsyncClient(
        headers=dict(headers or {}), verify=_trust(), timeout=_SECONDS, event_hooks={"response": hooks}
    )


async def _check_body(response: httpx2.Response) -> None:
    if not response.is_success or "json" not in response.headers.get("content-type", ""):
        return
    await response.aread()
    try:
        body = response.json()
    except ValueError:
        return
    if (error := _error_in(body)) is not None:
        message, fields = error
        code = str(fields.get("code") or fields.get("status") or "")
        status = int(code) if code.isascii() and code.isdigit() and len(code) == _DIGITS else None
        raise AnsweredWithError(message, response.text[:_LONGEST], status)


def _error_in(body: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return the message of an error body and the object that has it; None for an answer."""
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    if not isinstance(body, dict) or (not body.get("error") and any(body.get(name) for name in _ANSWERS)):
        return None
    if isinstance(error := body.get("error"), str):
        return error, body
    errors = body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    for fields in (error, body.get("base_resp"), first, body):
        if isinstance(fields, dict) and (
            message := next(filter(None, (_text(fields, name) for name in _MESSAGES)), None)
        ):
            return message, fields if fields.get("code") else {**fields, "code": body.get("code")}
    return (str(error), {}) if error else None


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    return text if isinstance(text := fields.get(name), str) and text.strip() else None


_ANSWERS = ("choices", "candidates", "content", "output")
_MESSAGES = ("message", "status_msg", "error_msg", "detail", "msg")


@cache
def _trust() -> ssl.SSLContext:
    # Reading the certificates takes longer than a connection, and megabytes each time.
    return httpx2.create_ssl_context()


async def _bound(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """A stream that raises an error when it becomes too long."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = LARGEST
        async for data in self._stream:
            remaining -= len(data)
            if remaining < 0:
                raise httpx2.ReadError(f"the answer is longer than {LARGEST:,} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
