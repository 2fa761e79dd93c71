"""Test tokens of attempts: a signed one is read back, and all others are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from coordination.base.errors import Refused, TokenRefused
from coordination.base.ids import new_id
from coordination.domain.access import attempt_tokens
from coordination.domain.access.attempt_tokens import (
    MAX_TOKEN_LENGTH,
    AttemptClaims,
    Scope,
    check_scope,
    derive_key,
    issue,
    verify,
)
from coordination.store.redis.signatures import Signatures
from tests.support.refusals import refuses

KEY = derive_key(b"k" * 32)
CLAIMS = AttemptClaims(new_id(), new_id(), new_id(), 3, "dave/vc", frozenset({Scope.REPORT, Scope.ASK}))
FIELDS = {
    "workspace": CLAIMS.workspace_id,
    "project": CLAIMS.project_id,
    "task": CLAIMS.task_id,
    "attempt": 3,
    "agent": "dave/vc",
    "scopes": ["ask", "report"],
}


def signed(said: Any, *, version: str = "coord1") -> str:
    """Return a token that a holder of the key could make."""
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    body = f"{version}.{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}"
    return f"{body}.{hmac.new(KEY, body.encode(), hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize("agent", [None, "dave/vc", "Å/漢"])
def test_what_was_signed_comes_back(agent: str | None) -> None:
    claims = AttemptClaims(CLAIMS.workspace_id, CLAIMS.project_id, CLAIMS.task_id, 1, agent)

    assert verify(KEY, issue(KEY, claims)) == claims


def test_every_letter_counts() -> None:
    token = issue(KEY, CLAIMS)

    for place in range(len(token)):
        for letter in ("A", "b", ".", "\n"):
            if token[place] != letter:
                with pytest.raises(TokenRefused):
                    verify(KEY, token[:place] + letter + token[place + 1 :])


@pytest.mark.parametrize("token", ["", "x", "coord1..", "coord1.e30." + "0" * 64, "é" * 100, "0" * 32, "x" * 2**20])
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(KEY, token)


@pytest.mark.parametrize(
    "token",
    [
        *(issue(KEY, CLAIMS) + end for end in ("\n", " ", "0", ".")),
        issue(KEY, CLAIMS).upper(),
        signed(FIELDS, version="coord2"),
    ],
)
def test_what_looks_nearly_like_a_token_is_refused(token: str) -> None:
    with pytest.raises(TokenRefused):
        verify(KEY, token)


def test_a_token_that_is_too_long_is_refused_before_its_signature_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_tokens, "_signature", lambda *_: pytest.fail("it was computed"))

    with refuses(TokenRefused, field=None):
        verify(KEY, "coord1." + "A" * MAX_TOKEN_LENGTH + "." + "0" * 64)


def test_no_token_is_made_that_would_be_refused() -> None:
    with refuses(Refused, field=None):
        issue(KEY, AttemptClaims(CLAIMS.workspace_id, CLAIMS.project_id, CLAIMS.task_id, 1, "x" * MAX_TOKEN_LENGTH))


@pytest.mark.parametrize(
    "said",
    [
        {**FIELDS, "admin": True},
        {name: value for name, value in FIELDS.items() if name != "scopes"},
        {**FIELDS, "scopes": ["everything"]},
        {**FIELDS, "scopes": [["report"]]},
        {**FIELDS, "scopes": "report"},
        {**FIELDS, "attempt": True},
        {**FIELDS, "attempt": 0},
        {**FIELDS, "attempt": 2**31},
        {**FIELDS, "attempt": "3"},
        {**FIELDS, "task": "x' OR 1"},
        {**FIELDS, "agent": 5},
        [],
        b"\xff",
        b"[" * 2000,
    ],
)
def test_claims_of_another_form_are_refused_although_they_are_signed(said: Any) -> None:
    assert verify(KEY, signed(FIELDS)) == CLAIMS

    with pytest.raises(TokenRefused):
        verify(KEY, signed(said))


def test_tokens_and_messages_have_keys_of_their_own() -> None:
    secret = b"k" * 32
    token = issue(derive_key(secret), CLAIMS)

    with pytest.raises(TokenRefused):
        verify(secret, token)
    assert isinstance(Signatures(lambda: derive_key(secret)).check("jobs", token.encode()), str)


def test_a_token_is_for_its_scopes_only() -> None:
    check_scope(CLAIMS, Scope.ASK)

    with refuses(TokenRefused, field=None):
        check_scope(CLAIMS, Scope.DISCOVER)
