"""The token of an attempt: signed claims that say which attempt speaks, and what it may do. Pure.

    coord1.BASE64URL(CLAIMS).HEXADECIMAL(HMAC-SHA256)

A token holds no secret and no time of expiry: it is good for as long as its attempt runs, which the attempt's row says.
The signature is checked before anything of the claims is parsed, and covers the version.
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

LONGEST = 4096
"""Characters of a token; what is longer is refused before anything is computed."""

_VERSION = "coord1"
_LABEL = b"coordination: tokens of attempts, version 1"
_SHAPE = re.compile(r"(coord1\.[A-Za-z0-9_-]+)\.([0-9a-f]{64})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_IDS = ("workspace", "project", "task")
_FIELDS = {*_IDS, "attempt", "agent", "scopes"}
_MOST_ATTEMPTS = 2**31


class Scope(StrEnum):
    """What an attempt may do with its token."""

    REPORT = "report"  # progress, the result, a failure; learn what the task is
    ASK = "ask"  # stop with a question
    DISCOVER = "discover"  # add tasks to its run


EVERYTHING = frozenset(Scope)
_SCOPES = {str(scope) for scope in Scope}


@dataclass(frozen=True, slots=True)
class AttemptClaims:
    """What a token says. *agent*: whom the task counts for, if anybody."""

    workspace_id: str
    project_id: str
    task_id: str
    attempt: int
    agent: str | None = None
    scopes: frozenset[Scope] = EVERYTHING


def derive_key(secret: bytes) -> bytes:
    """Return the key for tokens of *secret*, which signs messages too: neither signature is valid as the other."""
    return hmac.new(secret, _LABEL, hashlib.sha256).digest()


def issue(key: bytes, claims: AttemptClaims) -> str:
    """Return the token for *claims*. The same claims and key give the same token. Refused when it would be too long."""
    said = {
        "workspace": claims.workspace_id,
        "project": claims.project_id,
        "task": claims.task_id,
        "attempt": claims.attempt,
        "agent": claims.agent,
        "scopes": sorted(claims.scopes),
    }
    text = json.dumps(said, separators=(",", ":")).encode()
    signed = f"{_VERSION}.{base64.urlsafe_b64encode(text).rstrip(b'=').decode()}"
    token = f"{signed}.{_signature(key, signed)}"
    if len(token) > LONGEST:
        raise Refused("The attempt's token is too long", hint="Give its agent a shorter name")
    return token


def verify(key: bytes, token: str) -> AttemptClaims:
    """Return what a token with a valid signature says. Raises TokenRefused for everything else."""
    if len(token) > LONGEST:
        raise TokenRefused("The token is too long")
    found = _SHAPE.fullmatch(token)
    if found is None:
        raise TokenRefused("That is no token of an attempt")
    signed, signature = found.groups()
    if not hmac.compare_digest(_signature(key, signed), signature):
        raise TokenRefused("The token is not signed with the key of this database, or that was replaced since")
    return _claims(signed.removeprefix(f"{_VERSION}."))


def check_scope(claims: AttemptClaims, scope: Scope) -> None:
    """Refuse what the token is not for."""
    if scope not in claims.scopes:
        raise TokenRefused(f"The token is not for this: it lacks the scope {scope}")


def _signature(key: bytes, signed: str) -> str:
    return hmac.new(key, signed.encode(), hashlib.sha256).hexdigest()


def _claims(text: str) -> AttemptClaims:
    """Read what was signed, as strictly as if it were not: another program may have the key."""
    try:
        said = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise TokenRefused("The token's claims cannot be read") from None
    if not isinstance(said, dict) or said.keys() != _FIELDS or not _has_types(said):
        raise TokenRefused("The token's claims have other fields than those of this version")
    return AttemptClaims(
        said["workspace"],
        said["project"],
        said["task"],
        said["attempt"],
        said["agent"],
        frozenset(map(Scope, said["scopes"])),
    )


def _has_types(said: dict[str, Any]) -> bool:
    number, agent, scopes = said["attempt"], said["agent"], said["scopes"]
    return (
        all(isinstance(said[name], str) and _ID.fullmatch(said[name]) for name in _IDS)
        and isinstance(number, int)
        and not isinstance(number, bool)
        and 0 < number < _MOST_ATTEMPTS
        and (agent is None or isinstance(agent, str))
        and isinstance(scopes, list)
        and all(isinstance(scope, str) and scope in _SCOPES for scope in scopes)
    )
