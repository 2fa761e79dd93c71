"""HTTP clients for one conversation each: own connections and cookies, shared certificates, answers of bounded size."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from functools import cache

import httpx2

LARGEST = 64 * 1024 * 1024
"""Bytes of one response, compressed or not as it comes; a larger one counts as a lost connection."""

_SECONDS = httpx2.Timeout(600, connect=10)


def make_client(headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """A client that its user closes. Proxies and certificates are those of the worker's environment."""
    return httpx2.AsyncClient(
        headers=dict(headers or {}), verify=_trust(), timeout=_SECONDS, event_hooks={"response": [_bound]}
    )


@cache
def _trust() -> ssl.SSLContext:
    # Reading the certificates takes longer than making a connection, and megabytes each time.
    return httpx2.create_ssl_context()


async def _bound(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    """A stream that breaks off where it becomes too long."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = LARGEST
        async for data in self._stream:
            left -= len(data)
            if left < 0:
                raise httpx2.ReadError(f"the answer is longer than {LARGEST:,} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()
