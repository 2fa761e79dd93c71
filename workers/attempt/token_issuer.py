"""Issues tokens for the attempts of this worker, signed with the database's key."""

from __future__ import annotations

import secrets
import threading

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError
from coordination.domain.access.attempt_tokens import EVERYTHING, AttemptClaims, Scope, derive_key, issue
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.attempts import Claim
from coordination.store.engine import Store
from coordination.store.queries.fleet import broker_keys

log = structlog.get_logger()

_FRESH = 1.0  # seconds that a key is cached


class TokenIssuer:
    """Issues tokens with a key that is cached for a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._key: bytes | None = None
        self._read_at = float("-inf")

    def issue(self, claim: Claim) -> str:
        """Return the attempt's token.

        While the database is unavailable, use the last key. Without a key, the token is a random text, which is valid
        only on the attempt's socket.
        """
        key = self._current_key()
        return secrets.token_hex(16) if key is None else issue(key, token_claims(claim))

    def _current_key(self) -> bytes | None:
        with self._lock:
            if self._key is not None and monotonic() - self._read_at < _FRESH:
                return self._key
            try:
                with self._store.read() as tx:
                    secret = broker_keys.find(tx)
                self._key = derive_key(secret or self._store.transact(broker_keys.get_or_create))
                self._read_at = monotonic()
            except CoordinationError as error:
                log.warning("the key of tokens cannot be read", why=error.message)
            return self._key


def token_claims(claim: Claim) -> AttemptClaims:
    """Return the claims of an attempt's token. A task that answers a question may only report, to prevent loops."""
    answers = ANSWER in claim.options.get("role", {})
    scopes = frozenset({Scope.REPORT}) if answers else EVERYTHING
    return AttemptClaims(claim.workspace_id, claim.project_id, claim.task_id, claim.attempt, claim.agent_id, scopes)
