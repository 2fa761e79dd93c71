"""Issues the tokens of the attempts that run here, with the database's key."""

from __future__ import annotations

import secrets
import threading

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError
from coordination.domain.access.attempt_tokens import EVERYTHING, AttemptClaims, Scope, issue
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.attempts import Claim
from coordination.services.access.attempt_tokens import get_or_create_token_key, token_key
from coordination.store.engine import Store

log = structlog.get_logger()

_FRESH = 1.0  # seconds; who starts many jobs asks once


class TokenIssuer:
    """Makes tokens. The key is read again for attempts that start later than a second after the last time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._key: bytes | None = None
        self._read_at = float("-inf")

    def issue(self, claim: Claim) -> str:
        """Return the attempt's token.

        While the database is away, the last known key signs; without one the token is a random text, which counts on
        the attempt's own socket and nowhere else.
        """
        key = self._current()
        return secrets.token_hex(16) if key is None else issue(key, claims_of(claim))

    def _current(self) -> bytes | None:
        with self._lock:
            if self._key is not None and monotonic() - self._read_at < _FRESH:
                return self._key
            try:
                with self._store.read() as tx:
                    key = token_key(tx)
                self._key = self._store.transact(get_or_create_token_key) if key is None else key
                self._read_at = monotonic()
            except CoordinationError as error:
                log.warning("the key for tokens cannot be read", why=error.message)
            return self._key


def claims_of(claim: Claim) -> AttemptClaims:
    """What an attempt's token says: who answers a question asks none and adds no work, or there could be no end."""
    answers = ANSWER in claim.options.get("role", {})
    scopes = frozenset({Scope.REPORT}) if answers else EVERYTHING
    return AttemptClaims(claim.workspace_id, claim.project_id, claim.task_id, claim.attempt, claim.agent_id, scopes)
