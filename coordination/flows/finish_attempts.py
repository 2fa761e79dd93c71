"""Finish attempts: what the runners returned becomes state, evidence, costs and released work, in one transaction."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.domain.attempts import Claim, Outcome, Result, Usage
from coordination.domain.costs import CostRecord
from coordination.domain.plans import Backoff
from coordination.domain.retry import Decision, RetryAfter, decide
from coordination.ids import new_id
from coordination.services import windows
from coordination.services.endings.end import Ended, Ending, end_attempts
from coordination.store.queries.ready import Ready

_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Finished:
    """What the caller does after its commit: ring for ``ring``; look again at ``maybe_done_runs``."""

    ended: Ended
    ring: list[Ready]
    retry_in: dict[str, timedelta]


@dataclass(frozen=True, slots=True)
class Finish:
    """One ended attempt, with everything decided that must not change when the transaction is repeated."""

    claim: Claim
    result: Result
    decision: Decision
    costs: tuple[CostRecord, ...]


def decided(claim: Claim, result: Result, *, now: datetime) -> Finish:
    """What follows from *result*; ids of costs are made here, so that repeating the commit bills nothing twice."""
    failed = result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    decision = decide(
        result.outcome,
        failures=claim.failures + int(failed),
        losses=claim.losses + int(result.outcome is Outcome.LOST),
        deferrals=claim.deferrals + int(result.outcome is Outcome.DEFERRED),
        max_attempts=claim.max_attempts,
        repeatable=claim.repeatable,
        backoff=backoff_of(claim.backoff),
        retryable=result.retryable,
        began=result.began,
    )
    if isinstance(decision, RetryAfter) and decision.wait:
        # Tasks that failed together (a provider that was down) must not come back together.
        decision = RetryAfter(decision.wait * (1 + _JITTER * random.random()))  # noqa: S311
    return Finish(claim, result, decision, tuple(_cost(claim, usage, now) for usage in result.usage))


def finish_attempts(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    finishes: Sequence[Finish],
    *,
    worker_id: str,
    window: int,
    bundle: Callable[[str], int],
) -> Finished:
    """End these attempts, all of one project, and choose which ready tasks to ring for."""
    endings = [_ending(finish, worker_id) for finish in finishes]
    ended = end_attempts(tx, workspace_id, project_id, endings)
    waits = {
        ending.task_id: ending.decision.wait
        for ending in endings
        if isinstance(ending.decision, RetryAfter) and ending.task_id in ended.held
    }
    return Finished(ended, windows.fill(tx, workspace_id, project_id, window=window, bundle=bundle), waits)


def backoff_of(stored: dict[str, Any]) -> Backoff:
    """The back-off as stored with the task, or the default."""
    if not stored:
        return Backoff()
    return Backoff(
        initial=timedelta(seconds=stored["initial"]),
        factor=stored["factor"],
        maximum=timedelta(seconds=stored["maximum"]),
    )


def _ending(finish: Finish, worker_id: str) -> Ending:
    claim, result = finish.claim, finish.result
    return Ending(
        task_id=claim.task_id,
        attempt=claim.attempt,
        run_id=claim.run_id,
        key=claim.key,
        outcome=result.outcome,
        decision=finish.decision,
        actor=f"worker:{worker_id}",
        output=result.output,
        exit_code=result.exit_code,
        error=result.error,
        log=result.log,
        costs=finish.costs,
        slots=claim.slots,
    )


def _cost(claim: Claim, usage: Usage, now: datetime) -> CostRecord:
    total = usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens
    return CostRecord(
        id=usage.id or new_id(),
        session_id=usage.session_id or claim.session_id,
        project_id=claim.project_id,
        run_id=claim.run_id,
        task_id=claim.task_id,
        attempt=claim.attempt,
        agent=claim.agent,
        model=usage.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        total_tokens=total,
        cost_usd=usage.cost_usd,
        stale=False,
        occurred_at=usage.at or now,
        extra=usage.extra,
    )
