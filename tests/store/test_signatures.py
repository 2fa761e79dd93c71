"""Test signatures of messages: which are accepted, and that clients without them can read the signed content."""

from __future__ import annotations

import json
import time

import pytest

from coordination.base.errors import DatabaseUnavailable, RedisUnavailable
from coordination.store.redis.signatures import FRESH, MAX_MESSAGE_BYTES, Signatures

TEXTS = ['["w", "p"]', "[]", '[["t", 1]]', '{"body": "x"}', "{}", '{"signed": "0.0"}']


def signatures(key: bytes = b"k" * 32) -> Signatures:
    return Signatures(lambda: key)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_signed_is_json_and_comes_back_as_it_was(text: str) -> None:
    signed = signatures().sign("jobs", text)

    assert type(json.loads(signed)) is type(json.loads(text))
    assert signatures().check("jobs", signed.encode()) == text.encode()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("place", "key"), [("supervise", b"k" * 32), ("jobs", b"l" * 32)], ids=["elsewhere", "with another key"]
)
def test_a_signature_of_another_place_or_key_is_wrong(text: str, place: str, key: bytes) -> None:
    signed = signatures(key).sign(place, text).encode()

    assert signatures().check("jobs", signed) == "its signature is wrong"


def test_every_byte_counts() -> None:
    signed = signatures().sign("jobs", '{"body": "x", "n": 1}').encode()

    for place in range(len(signed)):
        changed = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
        assert isinstance(signatures().check("jobs", changed), str), changed


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"signed": "1.' + b"0" * 63 + b'"}', b"x" * (MAX_MESSAGE_BYTES + 1)]
)
def test_what_has_none_is_refused(raw: bytes) -> None:
    assert isinstance(signatures().check("jobs", raw), str)


def test_what_everybody_hears_is_obeyed_once_and_only_while_it_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = signatures()
    signed = ours.sign("cancels", "[]").encode()

    assert ours.check("cancels", signed, once=True) == b"[]"
    assert ours.check("cancels", signed, once=True) == "it is a copy of an earlier one"

    later = time.time() + FRESH + 5
    monkeypatch.setattr("coordination.store.redis.signatures.time.time", lambda: later)
    assert "seconds ago" in str(signatures().check("cancels", signed, once=True))
    assert signatures().check("cancels", signed) == b"[]"


def test_without_a_key_nothing_is_sent_and_nothing_obeyed() -> None:
    def away() -> bytes:
        raise DatabaseUnavailable("The database is away")

    signed = signatures().sign("jobs", "[]").encode()

    with pytest.raises(RedisUnavailable):
        Signatures(away).sign("jobs", "[]")
    assert "cannot be read" in str(Signatures(away).check("jobs", signed))
