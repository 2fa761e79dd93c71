"""Test that no secret gets through a masked stream, however the stream is split."""

from __future__ import annotations

import base64
import itertools
import json
import random
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.json_values import is_too_deep, json_problem
from workers.runners.secret_masking import Secrets

TOKENS = {
    "A_TOKEN": "sk-12345678",
    "LONGER_TOKEN": "sk-1234567890abcdef",
    "OVERLAPS_KEY": "5678-and-more",
    "OF_ONE_LETTER_SECRET": "aaaaaaaaaa",
    "HOME": "/home/ada",
}


def passed_on(*parts: bytes, tokens: dict[str, str] = TOKENS) -> bytes:
    seen = bytearray()
    hiding = Secrets(tokens, tokens).mask_stream(seen.extend)
    for part in parts:
        hiding(part)
    hiding.close()
    return bytes(seen)


@pytest.mark.parametrize("seed", range(20))
def test_a_secret_cut_anywhere_is_hidden(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a cut is no secret
    words = [b"so ", b"sk-1", b"\n", b"aaaa", *(token.encode() for token in TOKENS.values())]
    data = b"".join(dice.choice(words) for _ in range(300))
    parts, at = [], 0
    while at < len(data):
        size = dice.randint(1, 20)
        parts.append(data[at : at + size])
        at += size

    seen = passed_on(*parts)

    for name, token in TOKENS.items():
        assert (token.encode() in seen) is (name == "HOME"), name
    assert seen.count(b"so ") == data.count(b"so ")


def test_what_only_begins_like_one_is_shown_at_the_end_at_the_latest() -> None:
    assert passed_on(b"key: sk-1", b"2 is all") == b"key: sk-12 is all"
    assert passed_on(b"key: sk-12") == b"key: sk-12"


def test_a_secret_whose_end_may_begin_another_one_is_hidden_whole() -> None:
    assert b"1234" not in passed_on(b"sk-12345678", b"zz")
    assert b"90abcdef" not in passed_on(b"sk-12345678", b"90abcdef")


FORMS = {
    "itself": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of addresses": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "an address": lambda text: quote(text, safe=""),
    "a form": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON of texts": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "a dump": lambda text: text.encode().hex(),
}


@pytest.mark.parametrize("form", FORMS)
@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=60),
    before=st.text("ab ", max_size=9),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
)
def test_the_usual_ways_to_write_a_secret_are_hidden_too(form: str, secret: str, before: str, sizes: list[int]) -> None:
    written = FORMS[form](secret).encode()
    data = before.encode() + written + b"."
    parts, at = [], 0
    for size in itertools.cycle(sizes):
        parts.append(data[at : at + size])
        at += size
        if at >= len(data):
            break

    seen = passed_on(*parts, tokens={"API_KEY": secret})
    at_once = Secrets(["API_KEY"], {"API_KEY": secret}).hide(data.decode())

    assert written not in seen
    assert written.decode() not in at_once


def test_without_secrets_everything_passes_at_once() -> None:
    seen = bytearray()
    hiding = Secrets([], {}).mask_stream(seen.extend)

    hiding(b"sk-12345678")

    assert bytes(seen) == b"sk-12345678"


def test_what_nests_too_deeply_is_hidden_whole_and_stays_too_deep() -> None:
    secrets = Secrets(environ={"MY_TOKEN": "sk-0123456789"}, named=["MY_TOKEN"])
    deep: Any = "sk-0123456789"
    for _ in range(5_000):
        deep = [deep]

    hidden = secrets.hide({"a": deep, "b": "sk-0123456789"})

    assert hidden["b"] == "***"
    assert is_too_deep(hidden)
    assert "nests deeper" in str(json_problem(hidden))
