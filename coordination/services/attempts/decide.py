"""Decide what follows the end of an attempt, and build its cost records."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.tasks.attempts import AttemptEnd, AttemptIdentity, Claim, Outcome, Usage
from coordination.domain.tasks.retry import (
    Backoff,
    Complete,
    Decision,
    RetryAfter,
    Wait,
    decide,
    find_wait,
    retry_not_before,
)
from coordination.domain.tasks.tasks import BlockReason

_JITTER = 0.25


def decide_end(
    claim: Claim,
    end: AttemptEnd,
    *,
    now: datetime,
    took: timedelta = timedelta(0),
    costs: tuple[CostRecord, ...] | None = None,
    recorded_costs: tuple[CostRecord, ...] = (),
) -> EndedAttempt:
    """Return the ended attempt of *claim* with the decision that follows from *end*.

    Ids of cost records are created here, so that a repeated commit bills nothing twice. *recorded_costs*: costs that
    are in the ledger already; *costs*: the others; None: all usage in *end*.
    """
    if costs is None:
        costs = tuple(build_cost_record(claim, usage, now) for usage in end.usage) if end.usage else ()
    decision = Complete() if end.outcome is Outcome.COMPLETED else _decision(claim, end, now)
    if isinstance(decision, Wait) and decision.reasons != BlockReason.BUDGET:
        # Output before an answer is not a result; output before the budget ran out is kept.
        end = replace(end, output=None)
    # Even without a reservation at the claim, a budget that was set later has counted a start, and a heartbeat that
    # recorded costs has reserved money for the next call: both are returned.
    reserved_later = bool(recorded_costs or costs) or (not end.job_started and asks_a_model(claim.work))
    subject = claim.task_id, claim.attempt, claim.run_id, claim.key
    return EndedAttempt(
        *subject,
        end,
        decision,
        claim,
        took,
        costs,
        recorded_costs,
        slots=claim.slots,
        carried_over={**claim.carried_over, **end.carry_over} if end.carry_over else None,
        has_reservation=claim.budgeted or reserved_later,
    )


def _decision(claim: Claim, end: AttemptEnd, now: datetime) -> Decision:
    if (wait_for := find_wait(end)) is not None:
        return wait_for  # neither a success nor a failure
    backoff = _parse_backoff(claim.backoff)
    failed = end.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    decision: Decision = decide(
        end.outcome,
        failures=claim.failures + int(failed),
        losses=claim.losses,
        deferrals=claim.deferrals + int(end.outcome is Outcome.DEFERRED),
        max_attempts=claim.max_attempts,
        repeatable=claim.repeatable,
        backoff=backoff,
        retryable=end.retryable,
        job_started=end.job_started,
        killed=end.exit_code is not None and end.exit_code < 0,
    )
    if not isinstance(decision, RetryAfter) or not decision.wait:
        return decision
    # Jitter: tasks that failed together (a provider was down) must not retry together.
    wait = decision.wait * (1 + _JITTER * random.random())  # noqa: S311 - no secret
    if end.not_before is None:
        return RetryAfter(wait)
    is_limit = end.limit is not None and end.limit.resets_at is not None
    return retry_not_before(end.not_before, wait, now=now, backoff=backoff, limit=is_limit)


def _parse_backoff(stored: Mapping[str, Any]) -> Backoff:
    """Return the back-off that is stored with the task, or the default."""
    if not stored:
        return Backoff()
    initial, maximum = (timedelta(seconds=stored[name]) for name in ("initial", "maximum"))
    return Backoff(initial=initial, factor=stored["factor"], maximum=maximum)


def build_cost_record(spender: AttemptIdentity, usage: Usage, now: datetime) -> CostRecord:
    """Return the cost record of a model call."""
    total = usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens
    return CostRecord(
        id=usage.id or usage.mark or new_id(),
        session_id=usage.session_id or spender.session_id,
        project_id=spender.project_id,
        run_id=spender.run_id,
        task_id=spender.task_id,
        attempt=spender.attempt,
        agent=spender.agent,
        model=usage.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        total_tokens=total,
        cost_usd=usage.cost_usd,
        stale=False,
        occurred_at=usage.at or now,
        extra=usage.extra,
        account=spender.work.get("account"),
    )
