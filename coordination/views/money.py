"""JSON forms of budgets, costs and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from coordination.views.fields import fields_of, listing

if TYPE_CHECKING:
    from coordination.domain.money.budget_status import BudgetCheck, BudgetStatus
    from coordination.domain.money.budgets import Amount, BudgetUse
    from coordination.domain.money.costs import CostRecord
    from coordination.domain.money.pricing import Price, PriceOverride, Quote
    from coordination.flows.money.check_costs import LedgerCheck as CheckedSums
    from coordination.flows.money.import_costs import ImportResult
    from coordination.flows.money.reprice_costs import RepricingResult
    from coordination.store.reports.forecast.spending_outlook import SpendingOutlook
    from coordination.store.reports.money.spending import Spending

_RATES = ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning")


def budget(record: BudgetStatus) -> dict[str, Any]:
    """Return a budget with its status in the present period."""
    definition = record.budget
    return {
        "id": definition.id,
        "scope": definition.scope.value,
        "subject": definition.subject,
        "name": record.name,
        "period": definition.period.value,
        "starts": record.use.starts or None,
        "usd": definition.usd,
        "tokens": definition.tokens,
        "max_starts": definition.max_starts,
        "max_unpriced_calls": definition.unpriced_calls,
        "on_exceed": definition.action.value,
        "warn_at": definition.warn_percent,
        "downgrade_to": definition.downgrade_to,
        "spent": _spent(record.use),
        "reserved": _amount(record.use.reserved),
        "left": {"usd": record.left_usd, "tokens": record.left_tokens, "starts": record.left_starts},
        "percent": record.percent,
        "waiting": record.waiting,
        "set_by": definition.set_by,
        "set_at": definition.set_at,
    }


def budgets_of_subject(records: Sequence[BudgetStatus], waiting: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the budgets of one subject, and the tasks that wait for them (id, key, why)."""
    return listing("budgets", budget, records) | {"waiting": waiting}


def about_budget(**facts: BudgetStatus) -> dict[str, Any]:
    """Return the result of a change of a budget, such as ``removed=status``."""
    return {name: budget(record) for name, record in facts.items()}


def budget_check(record: BudgetCheck) -> dict[str, Any]:
    """Return a budget's counters, and the sums of the ledger and the running attempts."""
    return {
        "id": record.budget.id,
        "scope": record.budget.scope.value,
        "name": record.name,
        "period": record.budget.period.value,
        "right": record.right,
        "kept": {"spent": _spent(record.kept), "reserved": _amount(record.kept.reserved)},
        "counted": {"spent": _spent(record.counted), "reserved": _amount(record.counted.reserved)},
    }


def budget_checks(records: Sequence[BudgetCheck], *, repaired: bool) -> dict[str, Any]:
    """Return the result of a check of all budgets: those that differ."""
    wrong = [budget_check(record) for record in records if not record.right]
    return {"checked": len(records), "repaired": repaired, "wrong": wrong}


def cost(record: CostRecord) -> dict[str, Any]:
    """Return a record of the cost ledger."""
    return fields_of(record)


def cost_summary(
    *,
    by: str,
    since: datetime | None,
    until: datetime | None,
    timezone: str,
    groups: Sequence[Spending],
    total: Any,
    free: Mapping[str, int],
) -> dict[str, Any]:
    """Return the sums of the ledger by one dimension. *free*: calls of priced models that were reported as free."""
    return {
        "by": by,
        "since": since,
        "until": until,
        "timezone": timezone,
        "groups": groups,
        "total": total,
        "zero_cost_calls_of_priced_models": free,
    }


def cost_forecast(project: str | None, outlook: SpendingOutlook) -> dict[str, Any]:
    """Return the costs of today and this month, and the forecast for the month."""
    from coordination.domain.forecast.forecasts import CONFIDENCE

    return {"project": project, "confidence_percent": CONFIDENCE, "outlook": outlook}


def cost_check(record: CheckedSums) -> dict[str, Any]:
    """Return the result of a check of the sums against the records."""
    return {
        "right": record.repaired or (record.complete and not record.wrong),
        "zone": record.zone,
        "wrong": record.wrong,
        "repaired": record.repaired,
        "examples": [{**cell._asdict(), "missing": missing} for cell, missing in record.examples],
    }


def cost_import(record: ImportResult, free: Mapping[str, int]) -> dict[str, Any]:
    """Return the result of an import of cost records."""
    return {
        "project": record.project,
        "read": record.read,
        "new": record.new,
        "unpriced_calls": record.unpriced,
        "zero_cost_calls_of_priced_models": free,
        "torn_line": record.torn,
    }


def repricing(record: RepricingResult, *, dry_run: bool) -> dict[str, Any]:
    """Return the corrections of calls by their price, and the calls that stay without one."""
    return {
        "dry_run": dry_run,
        "looked_at": record.looked_at,
        "corrected_calls": record.corrected,
        "added_usd": record.added_usd,
        "corrected": [
            {"model": model, "priced_by": by, "calls": calls, "usd": record.usd[model, by]}
            for (model, by), calls in sorted(record.calls.items())
        ],
        "left": [{"model": model, "why": why, "calls": calls} for (model, why), calls in sorted(record.left.items())],
    }


def price(record: PriceOverride, project: str | None) -> dict[str, Any]:
    """Return a price that was set. *project*: the name of its project; None: all projects."""
    return {
        "model": record.model,
        "project_id": record.project_id,
        "project": project,
        "usd_per_million_tokens": rates(record.price),
        "set_by": record.set_by,
        "set_at": record.set_at,
    }


def prices(records: Sequence[tuple[PriceOverride, str | None]], price_list: str) -> dict[str, Any]:
    """Return the prices that were set, and the name of the list of all other prices."""
    return {"prices": [price(record, project) for record, project in records], "list": price_list}


def model_price(model: str, quote: Quote) -> dict[str, Any]:
    """Return the present price of a model."""
    view = {"by": quote.by, "of": quote.called, "usd_per_million_tokens": rates(quote.price)}
    return {"model": model, "known": True, **view}


def unknown_price(model: str, why: str) -> dict[str, Any]:
    """Return a model without a price."""
    return {"model": model, "known": False, "why": why}


def rates(price: Price) -> dict[str, Any]:
    """Return the rates of a price, without kinds of tokens that have no rate of their own."""
    view: dict[str, Any] = {}
    for kind in _RATES:
        if (rate := getattr(price, kind)) is not None:
            steps = [{"input_tokens": above, "usd": usd} for above, usd in rate.steps]
            view[kind] = {"usd": rate.usd, "above": steps} if steps else rate.usd
    return view if price.request is None else view | {"request": price.request}


def _spent(use: BudgetUse) -> dict[str, Any]:
    return {**_amount(use.spent), "starts": use.spent.starts}


def _amount(amount: Amount) -> dict[str, Decimal | int]:
    return {"usd": amount.usd, "tokens": amount.tokens, "unpriced_calls": amount.unpriced}
