"""What a job is expected to cost before it runs: from what jobs of its kind cost, from prices, from its plan. Pure.

An estimate is cautious: money is reserved by it, and what is not spent of that is given back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from coordination.base import durations
from coordination.base.errors import Refused
from coordination.base.money import ZERO, usd
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import MAX_STEPS, ChatCall, job_class, kind_label
from coordination.domain.money import pricing
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import Price, Quote, Tokens, UnknownPrice
from coordination.domain.tasks.attempts import Outcome

HISTORY, PRICE, PLAN, UNKNOWN, NONE = "history", "price", "plan", "unknown", "none"
"""Where an estimate comes from. ``unknown``: it may cost anything. ``none``: such jobs cost nothing."""

KEPT = 32
"""So many of the latest samples of each kind are kept."""

ENOUGH = 3
"""Fewer samples than these say little: the next job may cost twice as much."""

SHORT = timedelta(seconds=1)
"""A job that took no longer, cost nothing and asked no model leaves no sample."""

STATED_KEYS = ("usd", "tokens", "duration")
MOST_TOKENS = 1_000_000_000_000

_LONGEST_KEY = 300
_BYTES_PER_TOKEN = 3  # prose has four, other languages and code have fewer
_EACH_CALL = 100  # tokens that a provider adds around what it is sent
_TELL_COSTS = ("claude", "opencode")  # whatever a price list knows, these agents say themselves what they cost
_ENDS = frozenset({Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT})

Quoted = Callable[[str], Quote | UnknownPrice]
"""The price of a model by its name, asked only where it matters."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most that one attempt is expected to use; ``unpriced``: model calls without a known price."""

    usd: Decimal
    tokens: int
    unpriced: int
    source: str


@dataclass(frozen=True, slots=True)
class JobSample:
    """What one attempt used and how long it took. ``usd`` None: nothing that it called has a known price."""

    usd: Decimal | None
    tokens: int
    unpriced: int
    took: timedelta
    completed: bool

    def to_json(self) -> list[Any]:
        """As stored."""
        written = None if self.usd is None else f"{self.usd:f}"
        return [written, self.tokens, self.unpriced, self.took.total_seconds(), self.completed]

    @property
    def tells(self) -> bool:
        """Whether it says what such a job costs: one that failed before it asked anything does not."""
        return self.completed or bool(self.usd or self.tokens or self.unpriced)


def read_samples(stored: object) -> tuple[JobSample, ...]:
    """The samples in a stored value, oldest first; what is none is left out."""
    items = stored if isinstance(stored, list) else []
    return tuple(one for item in items if (one := _sample(item)) is not None)


def _sample(item: object) -> JobSample | None:
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


def latest(known: Sequence[JobSample], more: Sequence[JobSample]) -> list[JobSample]:
    """What is kept of both, oldest first."""
    return [*known, *more][-KEPT:]


def history_key(work: Mapping[str, Any]) -> str:
    """Return the key under which jobs cost about as much: their kind, and of an agent its model and its own program."""
    return f"{kind_label(work)}{job_class(work).cost_key(work)}"[:_LONGEST_KEY]


def asks_a_model(work: Mapping[str, Any]) -> bool:
    """Return whether the job is a conversation with a model, by its kind."""
    return job_class(work).asks_a_model


def model_of(work: Mapping[str, Any]) -> str | None:
    """The model that a job names, as its provider calls it; None when it names none, or only when it starts."""
    named = job_class(work).model_in(work)
    return named if named and "{{" not in named else None


def sample_of(
    work: Mapping[str, Any], outcome: Outcome, took: timedelta, costs: Sequence[CostRecord]
) -> JobSample | None:
    """What an attempt teaches about jobs like it; None for what is too small, or did not come to an end of its own."""
    if outcome not in _ENDS or (took <= SHORT and not costs and not asks_a_model(work)):
        return None
    known = [one.cost_usd for one in costs if one.cost_usd is not None]
    return JobSample(
        usd=max(ZERO, pricing.sum_of(known)) if known or not costs else None,
        tokens=sum(one.total_tokens for one in costs),
        unpriced=max(0, len(costs) - len(known) - sum(one.settles for one in costs)),
        took=min(max(took, timedelta(0)), durations.MAX_DURATION),
        completed=outcome is Outcome.COMPLETED,
    )


def estimate(
    work: Mapping[str, Any], samples: Iterable[JobSample], *, stated: Mapping[str, Any] | None, quote: Quoted
) -> Estimate:
    """What one attempt of *work* is expected to use, at the most.

    *samples*: of earlier jobs with its history_key. *stated*: what its plan says (see parse_stated).
    """
    asks, model = asks_a_model(work), model_of(work)
    telling = [one for one in samples if one.tells]
    if telling:
        return _by_history(telling, model, quote)
    price = quote(model) if asks and model is not None else UnknownPrice("no model is named")
    untold = model is not None and isinstance(price, UnknownPrice) and work.get("agent") not in _TELL_COSTS
    bound = _bound(work)
    if bound is not None:
        calls, tokens = bound
        dollars = _dollars(tokens, calls, price)
        if dollars is not None:
            return Estimate(dollars, tokens.all_input + tokens.output, 0, PRICE)
    by_plan = _by_plan(stated or {}, price, unpriced=int(untold))
    if by_plan is not None:
        return by_plan
    if bound is not None:  # nobody can say what that costs, but more tokens than these it will not use
        return Estimate(ZERO, tokens.all_input + tokens.output, 1, PRICE)
    if not asks:
        return Estimate(ZERO, 0, 0, NONE)
    return Estimate(ZERO, _stated_tokens(stated or {}), int(untold), UNKNOWN)


def _by_history(samples: Sequence[JobSample], model: str | None, quote: Quoted) -> Estimate:
    times = 1 if len(samples) >= ENOUGH else 2
    dollars = max((one.usd for one in samples if one.usd is not None), default=ZERO)
    unpriced = max(one.unpriced for one in samples)
    if unpriced and model is not None:
        # They had no price then; somebody may have set one since.
        dearest = _dearest(quote(model))
        if dearest is not None:
            dollars = max(dollars, *(pricing.of_tokens(one.tokens, dearest) for one in samples if one.unpriced))
            unpriced = max((one.unpriced for one in samples if not one.tokens), default=0)
    return Estimate(dollars * times, max(one.tokens for one in samples) * times, unpriced * times, HISTORY)


def _by_plan(stated: Mapping[str, Any], price: Quote | UnknownPrice, *, unpriced: int) -> Estimate | None:
    if "usd" in stated:
        return Estimate(usd(stated["usd"]), _stated_tokens(stated), unpriced, PLAN)
    dearest = _dearest(price)
    if "tokens" in stated and dearest is not None:
        return Estimate(pricing.of_tokens(_stated_tokens(stated), dearest), _stated_tokens(stated), 0, PLAN)
    return None


def _stated_tokens(stated: Mapping[str, Any]) -> int:
    return int(stated.get("tokens", 0))


def _bound(work: Mapping[str, Any]) -> tuple[int, Tokens] | None:
    """How often a chat may call its model and the tokens of all these calls, if it has a limit of tokens.

    Every call reads again what was said before. What tools answer is not known, nor what templates will stand for.
    """
    settings = work.get("settings") or {}
    if job_class(work) is not ChatCall or "max_tokens" not in settings:
        return None
    several = work.get("tools") or work.get("schema")
    calls = int(settings.get("max_steps", MAX_STEPS)) if several else 1
    told = [str(work.get("prompt", "")), str(work.get("system") or ""), json.dumps(work.get("schema") or "")]
    size = sum(len(text.encode(errors="replace")) for text in told)
    first = size // _BYTES_PER_TOKEN + _EACH_CALL
    most = int(settings["max_tokens"])
    return calls, Tokens(input=calls * first + most * (calls * (calls - 1) // 2), output=calls * most)


def _dollars(tokens: Tokens, calls: int, price: Quote | UnknownPrice) -> Decimal | None:
    if isinstance(price, UnknownPrice):
        return None
    found = pricing.priced(tokens, price)
    return None if isinstance(found, UnknownPrice) else found.usd + (calls - 1) * (price.price.request or ZERO)


def _dearest(price: Quote | UnknownPrice) -> Decimal | None:
    """What a million tokens cost at most, whichever these are."""
    if isinstance(price, UnknownPrice) or price.price.input is None or price.price.output is None:
        return None
    rates = [rate for kind in pricing.KINDS if (rate := _rate(price.price, kind)) is not None]
    return max(rates)


def _rate(price: Price, kind: str) -> Decimal | None:
    rate = price.rate(kind)
    return None if rate is None else max([rate.usd, *(dollars for _, dollars in rate.steps)])


def parse_stated(value: object) -> dict[str, Any]:
    """What a task's author expects of it, as stored; Refused with one sentence for what is wrong in it."""
    if not isinstance(value, Mapping):
        raise Refused(
            f"estimate must be a mapping, not {excerpt(value)}",
            hint="Write {usd: 0.25, tokens: 20000}",
            field="estimate",
        )
    for name in value:
        if name not in STATED_KEYS:
            hint = did_you_mean(str(name), STATED_KEYS) or f"It may have: {', '.join(STATED_KEYS)}"
            raise Refused(f"estimate has no {excerpt(name)}", hint=hint, field=f"estimate.{name}")
    made: dict[str, Any] = {}
    if (dollars := value.get("usd")) is not None:
        made["usd"] = f"{pricing.plain(_amount(dollars)):f}"
    if (tokens := value.get("tokens")) is not None:
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= MOST_TOKENS:
            raise Refused(
                f"estimate.tokens must be a whole number from 0 to {MOST_TOKENS:,}, not {excerpt(tokens)}",
                field="estimate.tokens",
            )
        made["tokens"] = tokens
    if (duration := value.get("duration")) is not None:
        made["duration"] = _duration(duration).total_seconds()
    return made


def _amount(value: object) -> Decimal:
    try:
        amount = usd(value) if isinstance(value, str | int | float | Decimal) else Decimal(-1)
    except Refused:
        amount = Decimal(-1)
    if amount < 0:
        said = excerpt(str(value) if isinstance(value, Decimal) else value)
        raise Refused(
            f"estimate.usd must be an amount that is not negative, not {said}", hint="Write 0.25", field="estimate.usd"
        )
    return amount.copy_abs()  # of zero, too, there is a negative one


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        if not timedelta(0) <= value <= durations.MAX_DURATION:
            raise Refused(
                f"estimate.duration must be from zero to {durations.MAX_DURATION.days:,} days, not {value}",
                field="estimate.duration",
            )
        return value
    try:
        return durations.parse_duration(value)  # type: ignore[arg-type] # which refuses what it cannot read
    except Refused as refused:
        raise Refused(f"estimate.duration: {refused.message}", hint=refused.hint, field="estimate.duration") from None
