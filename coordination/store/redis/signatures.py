"""Signatures of what goes over Redis: only who can read the database can write a message that is obeyed.

A message is a JSON object or list; its signature is the last value in it, so programs that do not know signatures read
it all the same. It is checked on the bytes as they came, before anything of them is parsed. ``place`` is the queue or
channel: a message that was copied elsewhere is not valid there.

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

LONGEST = 4 << 20  # bytes of a message; the longest that is sent for tasks has a fortieth of it
FRESH = 60  # seconds that clocks may be apart, for messages that go to all who listen at that moment
_READ_AGAIN = 60.0
_LOOK_AGAIN = 5.0
_SIGNATURE = re.compile(rb'(?:, )?(?:"signed": )?"(\d{1,12})\.([0-9a-f]{64})"([\]}])')
_LENGTH = 128  # bytes: a signature is shorter


class Signatures:
    """Signs and checks messages with the key that *read_key* returns (it may raise a CoordinationError).

    The key is read when it is first needed, and again from time to time in a thread of its own, so that a new one takes
    effect everywhere within a minute. Has no lock: a process may fork at any time.
    """

    def __init__(self, read_key: Callable[[], bytes]) -> None:
        self._read_key = read_key
        self._key: bytes | None = None
        self._read_at = float("-inf")
        self._heard: dict[bytes, float] = {}

    def __repr__(self) -> str:
        return "Signatures(…)"

    def sign(self, place: str, text: str) -> str:
        """*text*, a JSON object or list, with its signature. Raises RedisUnavailable when there is no key."""
        start, end = text[:-1], text[-1]
        at = str(int(time.time()))
        comma = "" if len(start) == 1 else ", "
        name = '"signed": ' if end == "}" else ""
        return f'{start}{comma}{name}"{at}.{self._digest(self._current(), place, at, start.encode())}"{end}'

    def check(self, place: str, raw: bytes, *, once: bool = False) -> bytes | str:
        """The message without its signature, or in a few words why it is refused.

        *once*: for what all listeners hear at the same moment. A copy that somebody sends again is refused.
        """
        if len(raw) > LONGEST:
            return f"it has {len(raw)} bytes"
        found = _SIGNATURE.search(raw, max(0, len(raw) - _LENGTH))
        if found is None or found.end() != len(raw):
            return "it is not signed"
        start, (at, digest, end) = raw[: found.start()], found.groups()
        try:
            key = self._current()
        except RedisUnavailable as error:
            return error.message
        if not hmac.compare_digest(self._digest(key, place, at.decode(), start).encode(), digest):
            self._renew(_LOOK_AGAIN)
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
        for known, since in list(self._heard.items()):
            if now - since > 2 * FRESH:
                self._heard.pop(known, None)
        if digest in self._heard:
            return "it has come before"
        self._heard[digest] = now
        return None

    def _current(self) -> bytes:
        if self._key is None:
            self._read()
        else:
            self._renew(_READ_AGAIN)
        assert self._key is not None  # noqa: S101 - read, or refused
        return self._key

    def _read(self) -> None:
        self._read_at = monotonic()
        try:
            self._key = self._read_key()
        except CoordinationError as error:
            raise RedisUnavailable(f"The key of messages cannot be read: {error.message}", hint=error.hint) from error

    def _renew(self, age: float) -> None:
        if monotonic() - self._read_at > age:
            self._read_at = monotonic()
            threading.Thread(target=self._read_quietly, name="coord-broker-key", daemon=True).start()

    def _read_quietly(self) -> None:
        try:
            self._read()
        except RedisUnavailable as error:
            log.debug("kept the last known key of messages", why=error.message)
