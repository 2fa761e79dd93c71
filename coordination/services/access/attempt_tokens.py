"""Attempt tokens, checked against the attempts' rows without writing anything."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from coordination.base.errors import TokenRefused
from coordination.domain.access.attempt_tokens import Scope, check_scope, derive_key, verify
from coordination.store.queries.fleet import workers
from coordination.store.queries.tasks import attempts


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """A running attempt, according to its row and its task's."""

    workspace_id: str
    project_id: str
    run_id: str
    task_id: str
    attempt: int
    agent: str | None
    scopes: frozenset[Scope]


def check_token(tx: Connection, token: str, *, workspace_id: str, scope: Scope) -> AttemptRef:
    """Return the running attempt of *token*, which may do *scope* in *workspace_id*. Raises TokenRefused.

    ``coord rekey`` invalidates the tokens of all attempts at once, running ones too.
    """
    secret = workers.find_broker_key(tx)
    if secret is None:
        raise TokenRefused("The token is not signed with the current key of this database")
    claims = verify(derive_key(secret), token)
    if claims.workspace_id != workspace_id:
        raise TokenRefused("The token is of another workspace")
    check_scope(claims, scope)
    row = attempts.get_running(tx, claims.workspace_id, claims.task_id, claims.attempt)
    if row is None:
        raise TokenRefused("The token's attempt has ended")
    if (row["project_id"], row["agent_id"]) != (claims.project_id, claims.agent):
        raise TokenRefused("The token's attempt belongs to another project or agent by now")
    attempt = claims.task_id, claims.attempt
    return AttemptRef(claims.workspace_id, claims.project_id, row["run_id"], *attempt, row["agent"], claims.scopes)
