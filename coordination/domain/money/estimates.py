"""Estimates the cost of a job before it runs, from the history of its kind, prices, or its plan.

Estimates are cautious, because they are the reserved amounts; what is not spent is released.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from typing import Any

from coordination.base import durations
from coordination.base.errors import Refused
from coordination.base.money import ZERO, plus, usd
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import MAX_STEPS, ChatCall, job_class, kind_label
from coordination.domain.money import pricing
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import Price, Quote, Tokens, UnknownPrice
from coordination.domain.tasks.attempts import Outcome

HISTORY, PRICE, PLAN, UNKNOWN, NONE = "history", "price", "plan", "unknown", "none"
"""The sources of estimates. ``unknown``: the cost may be any. ``none``: such jobs cost nothing."""

MAX_SAMPLES = 32
"""The number of latest samples of each kind that are stored."""

MIN_SAMPLES = 3
"""With fewer samples, the estimate is doubled."""

SHORT_JOB = timedelta(seconds=1)
"""Jobs of at most this duration that cost nothing and asked no model are not sampled."""

ESTIMATE_KEYS = ("usd", "tokens", "duration")
MAX_ESTIMATED_TOKENS = 1_000_000_000_000

_LONGEST_KEY = 300
_BYTES_PER_TOKEN = 3  # prose has four, other languages and code have fewer
_EACH_CALL = 100  # tokens that a provider adds to a request
_AGENTS_WITH_COSTS = ("claude", "opencode")  # these report their costs, so that no price is needed
_ENDS = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT})

QuoteModel = Callable[[str], Quote | UnknownPrice]
"""Returns the price of a model by its name. Called only when it matters."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that one attempt is expected to use; ``unpriced``: model calls without a known price."""

    usd: Decimal
    tokens: int
    unpriced: int
    source: str


@dataclass(frozen=True, slots=True)
class JobSample:
    """The usage and duration of one attempt. ``usd`` None: none of its calls has a known price."""

    usd: Decimal | None
    tokens: int
    unpriced: int
    took: timedelta
    completed: bool

    def to_json(self) -> list[Any]:
        """Return the stored form."""
        dollars = None if self.usd is None else f"{self.usd:f}"
        return [dollars, self.tokens, self.unpriced, self.took.total_seconds(), self.completed]

    @property
    def is_informative(self) -> bool:
        """Return whether it shows what such a job costs: not if it failed before its first call."""
        return self.completed or bool(self.usd or self.tokens or self.unpriced)


def read_samples(stored: object) -> tuple[JobSample, ...]:
    """Parse stored samples, oldest first. Skips invalid ones."""
    items = stored if isinstance(stored, list) else []
    return tuple(sample for item in items if (sample := _read_sample(item)) is not None)


def _read_sample(item: object) -> JobSample | None:
    match item:
        case [
            None | str() as amount,
            int() as tokens,
            int() as unpriced,
            int() | float() as seconds,
            bool() as completed,
        ]:
            try:
                dollars = None if amount is None else usd(amount)
                took = durations.parse_duration(seconds)
            except Refused:
                return None
            if tokens < 0 or unpriced < 0 or (dollars is not None and dollars < 0):
                return None
            return JobSample(dollars, tokens, unpriced, took, completed)
    return None


def keep_latest(stored: Sequence[JobSample], new: Sequence[JobSample]) -> list[JobSample]:
    """Return the samples to store, oldest first."""
    return [*stored, *new][-MAX_SAMPLES:]


def history_key(work: Mapping[str, Any]) -> str:
    """Return a key of jobs with similar costs: the kind, and for agents the model and a custom program."""
    return f"{kind_label(work)}{job_class(work).cost_key(work)}"[:_LONGEST_KEY]


def asks_a_model(work: Mapping[str, Any]) -> bool:
    """Return whether jobs of this kind call a model."""
    return job_class(work).asks_a_model


def model_of(work: Mapping[str, Any]) -> str | None:
    """Return the model that a job names, as its provider calls it; None without one, or for a template."""
    model = job_class(work).model_in(work)
    return model if model and "{{" not in model else None


def make_sample(
    work: Mapping[str, Any], outcome: Outcome, took: timedelta, costs: Sequence[CostRecord]
) -> JobSample | None:
    """Return the sample of an attempt; None if it was too small, or was interrupted."""
    if outcome not in _ENDS or (took <= SHORT_JOB and not costs and not asks_a_model(work)):
        return None
    amounts = [one.cost_usd for one in costs if one.cost_usd is not None]
    return JobSample(
        usd=max(ZERO, reduce(plus, amounts, ZERO)) if amounts or not costs else None,
        tokens=sum(one.total_tokens for one in costs),
        unpriced=max(0, len(costs) - len(amounts) - sum(one.settles for one in costs)),
        took=min(max(took, timedelta(0)), durations.MAX_DURATION),
        completed=outcome is Outcome.COMPLETED,
    )


def estimate(
    work: Mapping[str, Any], samples: Iterable[JobSample], *, stated: Mapping[str, Any] | None, quote: QuoteModel
) -> Estimate:
    """Return the most that one attempt of *work* is expected to use.

    *samples*: of earlier jobs with its history_key. *stated*: the estimate of its plan (see ``parse_estimate``).
    """
    asks, model = asks_a_model(work), model_of(work)
    informative = [one for one in samples if one.is_informative]
    if informative:
        return _by_history(informative, model, quote)
    price = quote(model) if asks and model is not None else UnknownPrice("no model is named")
    reports_costs = work.get("agent") in _AGENTS_WITH_COSTS
    unpriced = int(model is not None and isinstance(price, UnknownPrice) and not reports_costs)
    bound = _bound(work)
    if bound is not None:
        calls, tokens = bound
        dollars = _dollars(tokens, calls, price)
        if dollars is not None:
            return Estimate(dollars, tokens.all_input + tokens.output, 0, PRICE)
    by_plan = _by_plan(stated or {}, price, unpriced=unpriced)
    if by_plan is not None:
        return by_plan
    if bound is not None:  # the price is unknown, but the number of tokens is limited
        return Estimate(ZERO, tokens.all_input + tokens.output, 1, PRICE)
    if not asks:
        return Estimate(ZERO, 0, 0, NONE)
    return Estimate(ZERO, _stated_tokens(stated or {}), unpriced, UNKNOWN)


def _by_history(samples: Sequence[JobSample], model: str | None, quote: QuoteModel) -> Estimate:
    times = 1 if len(samples) >= MIN_SAMPLES else 2
    dollars = max((one.usd for one in samples if one.usd is not None), default=ZERO)
    unpriced = max(one.unpriced for one in samples)
    if unpriced and model is not None:
        # A price may have been set since.
        rate = _highest_rate(quote(model))
        if rate is not None:
            dollars = max(dollars, *(pricing.cost_of_tokens(one.tokens, rate) for one in samples if one.unpriced))
            unpriced = max((one.unpriced for one in samples if not one.tokens), default=0)
    return Estimate(dollars * times, max(one.tokens for one in samples) * times, unpriced * times, HISTORY)


def _by_plan(stated: Mapping[str, Any], price: Quote | UnknownPrice, *, unpriced: int) -> Estimate | None:
    if "usd" in stated:
        return Estimate(usd(stated["usd"]), _stated_tokens(stated), unpriced, PLAN)
    rate = _highest_rate(price)
    if "tokens" in stated and rate is not None:
        return Estimate(pricing.cost_of_tokens(_stated_tokens(stated), rate), _stated_tokens(stated), 0, PLAN)
    return None


def _stated_tokens(stated: Mapping[str, Any]) -> int:
    return int(stated.get("tokens", 0))


def _bound(work: Mapping[str, Any]) -> tuple[int, Tokens] | None:
    """Return the maximum number of calls of a chat with a token limit, and the tokens of all of them.

    Every call reads the whole conversation again. Results of tools and values of templates are unknown.
    """
    settings = work.get("settings") or {}
    if job_class(work) is not ChatCall or "max_tokens" not in settings:
        return None
    several = work.get("tools") or work.get("schema")
    calls = int(settings.get("max_steps", MAX_STEPS)) if several else 1
    texts = [str(work.get("prompt", "")), str(work.get("system") or ""), json.dumps(work.get("schema") or "")]
    size = sum(len(text.encode(errors="replace")) for text in texts)
    first = size // _BYTES_PER_TOKEN + _EACH_CALL
    output = int(settings["max_tokens"])
    return calls, Tokens(input=calls * first + output * (calls * (calls - 1) // 2), output=calls * output)


def _dollars(tokens: Tokens, calls: int, price: Quote | UnknownPrice) -> Decimal | None:
    if isinstance(price, UnknownPrice):
        return None
    cost = pricing.compute_cost(tokens, price)
    return None if isinstance(cost, UnknownPrice) else cost.usd + (calls - 1) * (price.price.request or ZERO)


def _highest_rate(price: Quote | UnknownPrice) -> Decimal | None:
    """Return the highest price of a million tokens of any kind."""
    if isinstance(price, UnknownPrice) or price.price.input is None or price.price.output is None:
        return None
    rates = [rate for kind in pricing.KINDS if (rate := _rate(price.price, kind)) is not None]
    return max(rates)


def _rate(price: Price, kind: str) -> Decimal | None:
    rate = price.rate(kind)
    return None if rate is None else max([rate.usd, *(dollars for _, dollars in rate.steps)])


def parse_estimate(value: object) -> dict[str, Any]:
    """Parse the estimate of a task in a plan into the stored form. Raises Refused."""
    if not isinstance(value, Mapping):
        message = f"estimate must be a mapping, not {excerpt(value)}"
        raise Refused(message, hint="Write {usd: 0.25, tokens: 20000}", field="estimate")
    for name in value:
        if name not in ESTIMATE_KEYS:
            hint = did_you_mean(str(name), ESTIMATE_KEYS) or f"Its fields: {', '.join(ESTIMATE_KEYS)}"
            raise Refused(f"estimate has no {excerpt(name)}", hint=hint, field=f"estimate.{name}")
    fields: dict[str, Any] = {}
    if (dollars := value.get("usd")) is not None:
        fields["usd"] = f"{pricing.strip_zeros(_amount(dollars)):f}"
    if (tokens := value.get("tokens")) is not None:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= MAX_ESTIMATED_TOKENS:
            raise Refused(
                f"estimate.tokens must be a whole number from 0 to {MAX_ESTIMATED_TOKENS:,}, not {excerpt(tokens)}",
                field="estimate.tokens",
            )
        fields["tokens"] = tokens
    if (duration := value.get("duration")) is not None:
        fields["duration"] = _duration(duration).total_seconds()
    return fields


def _amount(value: object) -> Decimal:
    try:
        amount = usd(value) if isinstance(value, str | int | float | Decimal) else Decimal(-1)
    except Refused:
        amount = Decimal(-1)
    if amount < 0:
        shown = excerpt(str(value) if isinstance(value, Decimal) else value)
        raise Refused(
            f"estimate.usd must be an amount that is not negative, not {shown}", hint="Write 0.25", field="estimate.usd"
        )
    return amount.copy_abs()  # removes the sign of a negative zero


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        if not timedelta(0) <= value <= durations.MAX_DURATION:
            message = f"estimate.duration must be from zero to {durations.MAX_DURATION.days:,} days, not {value}"
            raise Refused(message, field="estimate.duration")
        return value
    try:
        return durations.parse_duration(value)  # type: ignore[arg-type] # refuses other types
    except Refused as refused:
        raise Refused(f"estimate.duration: {refused.message}", hint=refused.hint, field="estimate.duration") from None
