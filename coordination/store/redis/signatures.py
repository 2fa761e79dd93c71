"""Signatures of messages in Redis: only programs that can read the database can write messages that workers accept.

A message is a JSON object or list with its signature as the last value, so programs that do not know signatures can
read it. It is checked on the raw bytes, before anything is parsed. ``place`` is the queue or channel: a copied message
is not valid elsewhere.

    {"body": …, "signed": "1764500000.0f3c…"}        ["workspace", "project", "1764500000.0f3c…"]
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections.abc import Callable

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, RedisUnavailable

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 4 << 20  # bytes of a message, 40 times the longest that is sent for tasks
FRESH = 60  # seconds that clocks may differ, for broadcast messages
_READ_AGAIN = 60.0
_LOOK_AGAIN = 5.0
_SIGNATURE = re.compile(rb'(?:, )?(?:"signed": )?"(\d{1,12})\.([0-9a-f]{64})"([\]}])')
_LENGTH = 128  # bytes: a signature is shorter


class Signatures:
    """Signs and checks messages with the key that *read_key* returns (it may raise a CoordinationError).

    The key is read on first use, and again from time to time in a thread, so that a new one takes effect everywhere
    within a minute. Has no lock, because a process may fork at any time.
    """

    def __init__(self, read_key: Callable[[], bytes]) -> None:
        self._read_key = read_key
        self._key: bytes | None = None
        self._read_at = float("-inf")
        self._seen: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return "Signatures(…)"

    def sign(self, place: str, text: str) -> str:
        """Return *text*, a JSON object or list, with its signature. Raises RedisUnavailable without a key."""
        start, end = text[:-1], text[-1]
        at = str(int(time.time()))
        comma = "" if len(start) == 1 else ", "
        name = '"signed": ' if end == "}" else ""
        return f'{start}{comma}{name}"{at}.{self._digest(self._current(), place, at, start.encode())}"{end}'

    def check(self, place: str, raw: bytes, *, once: bool = False) -> bytes | str:
        """Return the message without its signature, or in a few words why it is refused.

        *once*: for broadcast messages: a repeated copy is refused.
        """
        if len(raw) > MAX_MESSAGE_BYTES:
            return f"it has {len(raw)} bytes"
        signature = _SIGNATURE.search(raw, max(0, len(raw) - _LENGTH))
        if signature is None or signature.end() != len(raw):
            return "it is not signed"
        start, (at, digest, end) = raw[: signature.start()], signature.groups()
        try:
            key = self._current()
        except RedisUnavailable as error:
            return error.message
        if not hmac.compare_digest(self._digest(key, place, at.decode(), start).encode(), digest):
            self._renew_after(_LOOK_AGAIN)
            return "its signature is wrong"
        if once and (why := self._repeated(int(at), digest)):
            return why
        return start + end

    @staticmethod
    def _digest(key: bytes, place: str, at: str, start: bytes) -> str:
        return hmac.new(key, f"{place}\0{at}\0".encode() + start, hashlib.sha256).hexdigest()

    def _repeated(self, at: int, digest: bytes) -> str | None:
        now = time.time()
        if abs(now - at) > FRESH:
            return f"it was signed {now - at:.0f} seconds ago, by the clock of its sender"
        for earlier, since in list(self._seen.items()):
            if now - since > 2 * FRESH:
                self._seen.pop(earlier, None)
        if digest in self._seen:
            return "it is a copy of an earlier one"
        self._seen[digest] = now
        return None

    def _current(self) -> bytes:
        if self._key is None:
            self._read()
        else:
            self._renew_after(_READ_AGAIN)
        assert self._key is not None  # noqa: S101 - read, or refused
        return self._key

    def _read(self) -> None:
        self._read_at = monotonic()
        try:
            self._key = self._read_key()
        except CoordinationError as error:
            raise RedisUnavailable(f"The key of messages cannot be read: {error.message}", hint=error.hint) from error

    def _renew_after(self, age: float) -> None:
        if monotonic() - self._read_at > age:
            self._read_at = monotonic()
            threading.Thread(target=self._read_quietly, name="coord-broker-key", daemon=True).start()

    def _read_quietly(self) -> None:
        try:
            self._read()
        except RedisUnavailable as error:
            log.debug("kept the last known key of messages", why=error.message)
