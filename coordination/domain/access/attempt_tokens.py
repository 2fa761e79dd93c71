"""The token of an attempt: signed claims that name the attempt and what it may do.

    coord1.BASE64URL(CLAIMS).HEXADECIMAL(HMAC-SHA256)

A token holds no secret and no expiry: it is valid while its attempt runs, according to the attempt's row. The signature
covers the version and is checked before the claims are parsed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordination.base.errors import Refused, TokenRefused

MAX_TOKEN_LENGTH = 4096
"""Characters of a token; longer ones are refused before anything is computed."""

_VERSION = "coord1"
_LABEL = b"coordination: tokens of attempts, version 1"
_SHAPE = re.compile(r"(coord1\.[A-Za-z0-9_-]+)\.([0-9a-f]{64})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_IDS = ("workspace", "project", "task")
_FIELDS = {*_IDS, "attempt", "agent", "scopes"}
_MOST_ATTEMPTS = 2**31


class Scope(StrEnum):
    """What an attempt may do with its token."""

    REPORT = "report"  # report progress, the result or a failure; read the task
    ASK = "ask"  # end with a question
    DISCOVER = "discover"  # add tasks to its run


EVERYTHING = frozenset(Scope)
_SCOPES = {str(scope) for scope in Scope}


@dataclass(frozen=True, slots=True)
class AttemptClaims:
    """The content of a token. *agent*: the agent that the task counts for, if any."""

    workspace_id: str
    project_id: str
    task_id: str
    attempt: int
    agent: str | None = None
    scopes: frozenset[Scope] = EVERYTHING


def derive_key(secret: bytes) -> bytes:
    """Return the key for tokens, derived from *secret*, which also signs messages: neither signature fits the other."""
    return hmac.new(secret, _LABEL, hashlib.sha256).digest()


def issue(key: bytes, claims: AttemptClaims) -> str:
    """Return the token for *claims*, which depends on them and the key only. Raises Refused if it is too long."""
    fields = {
        "workspace": claims.workspace_id,
        "project": claims.project_id,
        "task": claims.task_id,
        "attempt": claims.attempt,
        "agent": claims.agent,
        "scopes": sorted(claims.scopes),
    }
    encoded = json.dumps(fields, separators=(",", ":")).encode()
    signed = f"{_VERSION}.{base64.urlsafe_b64encode(encoded).rstrip(b'=').decode()}"
    token = f"{signed}.{_signature(key, signed)}"
    if len(token) > MAX_TOKEN_LENGTH:
        raise Refused("The attempt's token is too long", hint="Give its agent a shorter name")
    return token


def verify(key: bytes, token: str) -> AttemptClaims:
    """Return the claims of a token with a valid signature. Raises TokenRefused for any other text."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise TokenRefused("The token is too long")
    parts = _SHAPE.fullmatch(token)
    if parts is None:
        raise TokenRefused("This is not a token of an attempt")
    signed, signature = parts.groups()
    if not hmac.compare_digest(_signature(key, signed), signature):
        raise TokenRefused("The token is not signed with the current key of this database")
    return _claims(signed.removeprefix(f"{_VERSION}."))


def check_scope(claims: AttemptClaims, scope: Scope) -> None:
    """Raise TokenRefused when the token lacks *scope*."""
    if scope not in claims.scopes:
        raise TokenRefused(f"The token lacks the scope {scope}")


def _signature(key: bytes, signed: str) -> str:
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def _claims(text: str) -> AttemptClaims:
    """Parse signed claims strictly, because another program may have the key."""
    try:
        fields = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise TokenRefused("The token's claims cannot be read") from None
    if not isinstance(fields, dict) or fields.keys() != _FIELDS or not _has_types(fields):
        raise TokenRefused("The token's claims do not have the fields of this version")
    return AttemptClaims(
        fields["workspace"],
        fields["project"],
        fields["task"],
        fields["attempt"],
        fields["agent"],
        frozenset(map(Scope, fields["scopes"])),
    )


def _has_types(fields: dict[str, Any]) -> bool:
    attempt, agent, scopes = fields["attempt"], fields["agent"], fields["scopes"]
    return (
        all(isinstance(fields[name], str) and _ID.fullmatch(fields[name]) for name in _IDS)
        and isinstance(attempt, int)
        and not isinstance(attempt, bool)
        and 0 < attempt < _MOST_ATTEMPTS
        and (agent is None or isinstance(agent, str))
        and isinstance(scopes, list)
        and all(isinstance(scope, str) and scope in _SCOPES for scope in scopes)
    )
