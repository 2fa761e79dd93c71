"""What one running attempt has spent: told by its runner, written by the heartbeat, ended with it. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from coordination.base.clock import utc_now
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.domain.money.budgets import NEEDS, BudgetShortage, total
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.money.usage_deltas import UsageDeltas
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.services.attempts.decide import cost_of
from coordination.services.money.ledger import amount
from workers.leases.usage_prices import UsagePrices
from workers.runners.cost_reports import CostJournal
from workers.runners.output import one_line

_NAMED = 120
_MOST_SAID = 5
_MOST_REMARKS = 20


class UsageMeter:
    """The meter of an attempt, and why it was stopped, if that was for want of money."""

    def __init__(self, claim: Claim, prices: UsagePrices, journal: CostJournal | None = None) -> None:
        """*journal*: keeps on disk what is told until it is in the ledger."""
        self._lock = threading.Lock()
        self._goes_on = asks_a_model(claim.work)  # where it was stopped; a command or a function begins anew
        self._repeatable = claim.repeatable
        self._meter = UsageDeltas(lambda used: prices.one(claim, used), lambda used: cost_of(claim, used, utc_now()))
        self._used: tuple[Usage, ...] = ()
        self._journal = journal
        self._changed = False
        self._short: BudgetShortage | None = None
        self._over = False

    def spent(self, used: Sequence[Usage]) -> None:
        """The job has used this in all so far."""
        with self._lock:
            self._used = tuple(used)
            self._changed = True
            self._keep(self._used)

    @property
    def changed(self) -> bool:
        """Whether there may be something to write."""
        return self._changed

    @property
    def settled(self) -> bool:
        """Whether all that was spent is written, and may go on being spent."""
        return not self._changed and self._short is None

    def due(self) -> list[CostRecord]:
        """What is to be written now; the same again until ``wrote``. Nothing, once the rest is on its way."""
        with self._lock:
            return [] if self._over else self._meter.due(self._used)

    def wrote(self, records: Sequence[CostRecord]) -> None:
        """These are in the ledger."""
        with self._lock:
            self._meter.wrote(records)
            self._changed = not self._over and bool(self._meter.due(self._used))

    def ends_by(self, short: BudgetShortage) -> bool:
        """Whether the job is to be stopped for it. One that would begin anew may finish what it has begun, until it has
        passed a cap; and one that must not be repeated, in any case.
        """
        return self._goes_on or (short.passed and self._repeatable)

    def stop(self, short: BudgetShortage) -> None:
        """Remember why its job is stopped."""
        self._short = short

    def rest(self, used: Sequence[Usage]) -> tuple[tuple[CostRecord, ...], tuple[CostRecord, ...]]:
        """What is still to be written, now that the job has ended and this is all it used; and what was written."""
        with self._lock:
            self._over = True
            self._changed = False
            written = tuple(self._meter.written)
            return tuple(self._meter.rest(self._whole(used))), written

    def _whole(self, used: Sequence[Usage]) -> list[Usage]:
        """What its job used in all, with what surrounds it, and with what it told before it broke off."""
        lines = {one.line: one for one in (*self._used, *used) if one.line is not None}
        rest = [one for one in used if one.line is None] or [one for one in self._used if one.line is None]
        self._keep(rest)
        return [*lines.values(), *rest]

    def _keep(self, used: Sequence[Usage]) -> None:
        if self._journal is not None:
            self._journal.write([one for one in used if one.line is None])

    def remarks(self) -> list[str]:
        """A sentence for each call that was reported again with another amount."""
        with self._lock:
            return [
                f"the call {one_line(name, _NAMED)} was reported with several amounts, and the largest counts: "
                + ", ".join(map(_amount, said[:_MOST_SAID]))
                for name, said in list(self._meter.conflicts.items())[:_MOST_REMARKS]
            ]

    def judged(self, result: AttemptEnd, costs: Sequence[CostRecord]) -> AttemptEnd:
        """*result*, as that of a job that waits for money, if that is why it stopped. *costs*: all that it spent."""
        if self._short is None or result.outcome is not Outcome.DEFERRED:
            return result
        why = self._short.sentence()
        needs = self._short.wanted
        if not self._goes_on:
            needs += total(map(amount, costs))
        carry = {**result.carry, NEEDS: needs.to_json()}
        return replace(result, short=why, error=f"it was stopped: {why}", carry=carry)


def _amount(one: Usage) -> str:
    tokens = one.input_tokens + one.output_tokens if one.total_tokens is None else one.total_tokens
    return f"{'no price' if one.cost_usd is None else show_usd(one.cost_usd)} for {plural(tokens, 'token')}"
