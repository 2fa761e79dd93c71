"""Tokens of attempts, checked against the attempts' rows: no door writes anything to check one."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.base.errors import TokenRefused
from coordination.domain.access.attempt_tokens import AttemptClaims, Scope, check_scope, derive_key, verify
from coordination.store.queries.fleet import broker_keys
from coordination.store.queries.tasks import attempts


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """A running attempt, as its row and its task's say it."""

    workspace_id: str
    project_id: str
    run_id: str
    task_id: str
    attempt: int
    agent: str | None
    scopes: frozenset[Scope]


def token_key(tx: Connection) -> bytes | None:
    """Return the key for tokens, which is derived from the key of messages; None before anybody has needed that."""
    secret = broker_keys.find(tx)
    return None if secret is None else derive_key(secret)


def make_token_key(tx: Connection) -> bytes:
    """Return the key for tokens, and make the key of messages if nobody has."""
    return derive_key(broker_keys.make(tx))


def check_token(tx: Connection, token: str, *, workspace_id: str, scope: Scope) -> AttemptRef:
    """Return the attempt that *token* speaks for, which runs and may do *scope*. Raises TokenRefused.

    *workspace_id*: whose door this is. After ``coord rekey`` the tokens of all attempts, those that run included, are
    refused here at once.
    """
    key = token_key(tx)
    if key is None:
        raise TokenRefused("The token is not signed with the key of this database, or that was replaced since")
    claims = verify(key, token)
    if claims.workspace_id != workspace_id:
        raise TokenRefused("The token is of another workspace")
    check_scope(claims, scope)
    return _running(tx, claims)


def _running(tx: Connection, claims: AttemptClaims) -> AttemptRef:
    row = attempts.running(tx, claims.workspace_id, claims.task_id, claims.attempt)
    if row is None:
        raise TokenRefused("The token's attempt has ended")
    if (row["project_id"], row["agent_id"]) != (claims.project_id, claims.agent):
        raise TokenRefused("The token's attempt belongs to another project or agent by now")
    return AttemptRef(
        claims.workspace_id,
        claims.project_id,
        row["run_id"],
        claims.task_id,
        claims.attempt,
        row["agent"],
        claims.scopes,
    )
