"""Decide what follows the end of an attempt, and make the records of what it cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Spender, Usage
from coordination.domain.tasks.retry import Backoff, Complete, Decision, RetryAfter, Wait, decide, wait_of, wait_until
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
    chance: Callable[[], float] = random.random,
) -> EndedAttempt:
    """Return the attempt of *claim* with what follows from *end*.

    Ids of costs are made here, so that repeating the commit bills nothing twice. *recorded_costs*: what the attempt
    spent and is in the ledger already; *costs*: the rest of it, if that is known; None: all that *end* says.
    """
    if costs is None:
        costs = tuple(cost_of(claim, usage, now) for usage in end.usage) if end.usage else ()
    decision = Complete() if end.outcome is Outcome.COMPLETED else _decision(claim, end, now, chance)
    if isinstance(decision, Wait) and decision.reasons != BlockReason.BUDGET:
        # An answer to a question that it did not have yet is none; what it did before its money was gone is kept.
        end = replace(end, output=None)
    return EndedAttempt(
        claim.task_id,
        claim.attempt,
        claim.run_id,
        claim.key,
        end,
        decision,
        claim,
        took,
        costs,
        recorded_costs,
        slots=claim.slots,
        carried={**claim.carried, **end.carry} if end.carry else None,
        # A budget that was set after the claim counts it as a start, and gets that back; and what a heartbeat has
        # reserved of it for another call, when it recorded what was spent.
        reserved=claim.budgeted or bool(recorded_costs or costs) or (not end.began and asks_a_model(claim.work)),
    )


def _decision(claim: Claim, end: AttemptEnd, now: datetime, chance: Callable[[], float]) -> Decision:
    if (waits := wait_of(end)) is not None:
        return waits  # it stopped to go on later: that is neither an end nor a failure
    backoff = backoff_of(claim.backoff)
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
        began=end.began,
        killed=end.exit_code is not None and end.exit_code < 0,
    )
    if not isinstance(decision, RetryAfter) or not decision.wait:
        return decision
    # Tasks that failed together (a provider that was down) must not come back together.
    wait = decision.wait * (1 + _JITTER * chance())
    if end.not_before is None:
        return RetryAfter(wait)
    named = end.limit is not None and end.limit.resets_at is not None
    return wait_until(end.not_before, wait, now=now, backoff=backoff, limit=named)


def backoff_of(stored: Mapping[str, Any]) -> Backoff:
    """Return the back-off as stored with the task, or the default."""
    if not stored:
        return Backoff()
    return Backoff(
        initial=timedelta(seconds=stored["initial"]),
        factor=stored["factor"],
        maximum=timedelta(seconds=stored["maximum"]),
    )


def cost_of(spender: Spender, usage: Usage, now: datetime) -> CostRecord:
    """Return the record of what an attempt used."""
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
