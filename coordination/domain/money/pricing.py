"""Prices of model calls: a rate for each kind of token, exact arithmetic, and the precedence of prices.

Prices are US dollars for a million tokens. Cached input and cache writes are part of the input tokens of a call,
reasoning is part of its output tokens; a kind without a rate of its own has the rate of the kind that it is part of.
An unknown price has a reason and is never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import reduce
from typing import Any

from coordination.base.errors import Refused
from coordination.base.money import ZERO, plus, usd
from coordination.base.wording import excerpt
from coordination.domain.money.costs import CostRecord, correct
from coordination.domain.tasks.attempts import Usage

KINDS = ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning")

SUMMED = "summed"
"""The key in ``extra`` of usage that is the sum of several calls."""

PRICED_BY, PRICES, AMOUNTS = "priced_by", "prices", "reported_amounts"
PROVIDER = "asked_of"
"""The key in ``extra`` of a chat's provider, because several providers serve the same models."""

RESERVED_KEYS = frozenset({PRICED_BY, PRICES, AMOUNTS, PROVIDER})
"""The keys of ``extra`` that only this program writes: to computed costs, and to calls with several amounts."""

OVERRIDE = "override"

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_DEAREST = Decimal(1_000_000)
_PLACES = 12
_LONGEST_NAME = 200
_MOST = 1 << 63
_LARGEST_COST = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars for a million tokens; *steps*: (input tokens, the rate of calls with more of them), ascending."""

    usd: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def of(self, input_tokens: int) -> Decimal:
        """Return the rate of a call with that much input."""
        rates = [rate for above, rate in self.steps if input_tokens > above]
        return rates[-1] if rates else self.usd


@dataclass(frozen=True, slots=True)
class Price:
    """The rates of a model; ``request``: additional dollars for each call."""

    input: Rate | None = None
    output: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    reasoning: Rate | None = None
    request: Decimal | None = None

    def rate(self, kind: str) -> Rate | None:
        """Return the rate of this kind of token, or of the kind that it is part of."""
        own: Rate | None = getattr(self, kind)
        if own is not None or kind in ("input", "output"):
            return own
        return self.rate({"reasoning": "output", "cache_write_1h": "cache_write"}.get(kind, "input"))

    def has_steps(self) -> bool:
        """Return whether long calls have a higher rate."""
        return any(rate.steps for kind in KINDS if (rate := self.rate(kind)) is not None)

    def is_free(self) -> bool:
        """Return whether all calls are free."""
        rates = [rate for kind in KINDS if (rate := self.rate(kind)) is not None]
        return not self.request and not any(rate.usd or any(price for _, price in rate.steps) for rate in rates)


@dataclass(frozen=True, slots=True)
class UnknownPrice:
    """The reason why there is no price or no cost; ``why``: half a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A model's price, its source, such as ``genai-prices 0.2.3`` or ``override``, and the model's name there.

    *long*: the name allows long calls (``[1m]``).
    """

    price: Price
    by: str
    called: str
    long: bool = False


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """A price that a person has set, for one project or the whole workspace."""

    model: str
    price: Price
    project_id: str | None = None
    set_by: str | None = None
    set_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PricedCall:
    """A computed cost; ``note``: its price list and rates, for the record's ``extra``."""

    usd: Decimal
    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Numbers of tokens by kind, each counted once: ``input`` excludes cached input and cache writes."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    summed: bool = False

    @property
    def all_input(self) -> int:
        """Return the number of tokens that the model read."""
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h


PriceList = Callable[[str, datetime], Quote | UnknownPrice]
"""Returns the price of a model at a moment."""


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Looks up prices: a project's override has precedence over the workspace's, and that over the price list."""

    overrides: Mapping[tuple[str | None, str], PriceOverride] = field(default_factory=dict)
    price_list: PriceList = lambda _model, _at: UnknownPrice("there is no price list")

    def quote(
        self, model: str, project_id: str | None, at: datetime, *, provider: str | None = None
    ) -> Quote | UnknownPrice:
        """Return the price of *model* in a project at a moment; *provider*: if the name does not include it."""
        full_name = f"{provider}:{model}" if provider else model
        for scope in dict.fromkeys((project_id, None)):
            for name in dict.fromkeys((model_key(model), model_key(full_name))):
                if (override := self.overrides.get((scope, name))) is not None:
                    source = f"{OVERRIDE} of the {'workspace' if scope is None else 'project'}"
                    return Quote(override.price, source, name)
        return self.price_list(full_name, at)

    def price_call(self, usage: Usage | CostRecord, project_id: str | None, at: datetime) -> PricedCall | UnknownPrice:
        """Return the cost of a call."""
        tokens = tokens_of(usage)
        if isinstance(tokens, UnknownPrice):
            return tokens
        provider = usage.extra.get(PROVIDER)
        quote = self.quote(usage.model, project_id, at, provider=provider if isinstance(provider, str) else None)
        return quote if isinstance(quote, UnknownPrice) else compute_cost(tokens, quote)


def make_price_book(overrides: Iterable[PriceOverride], price_list: PriceList) -> PriceBook:
    """Return a book of overrides and a price list."""
    return PriceBook({(one.project_id, model_key(one.model)): one for one in overrides}, price_list)


def model_key(model: str) -> str:
    """Return a name for comparison, without regard to case."""
    return model.strip().lower()


def tokens_of(usage: Usage | CostRecord) -> Tokens | UnknownPrice:
    """Return the tokens of a record by kind, or UnknownPrice when it has none or contradicts itself."""
    cached, reasoning = usage.cached_input_tokens, _count(usage, "reasoning_output_tokens")
    cache_write, cache_write_1h = (_count(usage, f"{kind}_input_tokens") for kind in ("cache_write", "cache_write_1h"))
    if not usage.input_tokens and not usage.output_tokens:
        return UnknownPrice("its tokens were not reported")
    if cached + cache_write > usage.input_tokens or cache_write_1h > cache_write:
        return UnknownPrice("its cached input exceeds its input")
    if reasoning > usage.output_tokens:
        return UnknownPrice("its reasoning exceeds its output")
    return Tokens(
        input=usage.input_tokens - cached - cache_write,
        cached_input=cached,
        cache_write=cache_write - cache_write_1h,
        cache_write_1h=cache_write_1h,
        output=usage.output_tokens - reasoning,
        reasoning=reasoning,
        summed=bool(usage.extra.get(SUMMED)),
    )


def compute_cost(tokens: Tokens, quote: Quote) -> PricedCall | UnknownPrice:
    """Return the exact cost of *tokens*. Sums of several calls have the rates of short ones."""
    if tokens.summed and quote.long and quote.price.has_steps():
        return UnknownPrice("long calls of it cost more, and the length of each call is unknown")
    length = 0 if tokens.summed else tokens.all_input
    total, rates = ZERO, {}
    for kind in KINDS:
        count: int = getattr(tokens, kind)
        if not count:
            continue
        rate = quote.price.rate(kind)
        if rate is None:
            return UnknownPrice(f"the list has no price for its {'output' if kind in _OUTPUT_KINDS else 'input'}")
        dollars = rate.of(length)
        rates[kind] = f"{dollars:f}"
        total = _EXACT.add(total, _EXACT.multiply(dollars, Decimal(count)))
    total = _EXACT.scaleb(total, -6)
    if quote.price.request is not None:
        if tokens.summed:
            return UnknownPrice("it costs something for each call, and the number of calls is unknown")
        total = _EXACT.add(total, quote.price.request)
        rates["request"] = f"{quote.price.request:f}"
    if total > _LARGEST_COST:
        return UnknownPrice("its cost exceeds the largest that can be stored")
    return PricedCall(strip_zeros(total), {PRICED_BY: quote.by, PRICES: {"of": quote.called, **rates}})


_OUTPUT_KINDS = ("output", "reasoning")


def make_correction(
    record: CostRecord, corrections: Sequence[CostRecord], cost: PricedCall, *, actor: str | None = None
) -> CostRecord | None:
    """Return the correction that changes the cost of *record* and its *corrections* to *cost*; None if it is right.

    Its id is derived from the record and the number of corrections, so that repetitions and concurrent ones add one.
    """
    amounts = [one.cost_usd for one in (record, *corrections) if one.cost_usd is not None]
    present = sum_exactly(amounts)
    if amounts and present == cost.usd:
        return None
    usd = strip_zeros(_EXACT.subtract(cost.usd, present))
    extra = {**cost.note, **({"corrected_by": actor} if actor else {})}
    return correct(record, len(corrections) + 1, usd, extra=extra, settles=not amounts)


def sum_exactly(amounts: Iterable[Decimal]) -> Decimal:
    """Return the sum without rounding."""
    return reduce(plus, amounts, ZERO)


def cost_of_tokens(count: int, dollars: Decimal) -> Decimal:
    """Return the exact cost of *count* tokens at a rate of *dollars* for a million."""
    return strip_zeros(_EXACT.scaleb(_EXACT.multiply(dollars, Decimal(count)), -6))


def is_computed(record: CostRecord) -> bool:
    """Return whether the cost was computed here, and not reported."""
    return record.cost_usd is not None and PRICED_BY in record.extra


def check_model_name(model: str) -> str:
    """Return the key of a model name for which a price is set. Raises Refused for an invalid name."""
    name = model_key(model)
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise Refused(f"{excerpt(model)} is not a model name", hint="Use a name from: coord costs list", field="model")
    return name


def parse_price(rates: Mapping[str, str | None]) -> Price:
    """Parse the price of each kind. Raises Refused for an invalid amount."""
    parsed: dict[str, Any] = {kind: Rate(_dollars(kind, text)) for kind, text in rates.items() if text is not None}
    return Price(**parsed)


def _dollars(kind: str, text: str) -> Decimal:
    try:
        amount = usd(text)
        exponent = amount.as_tuple().exponent
        if 0 <= amount <= _DEAREST and isinstance(exponent, int) and -exponent <= _PLACES:
            return strip_zeros(amount.copy_abs())
    except Refused:
        pass
    hint = f"Give dollars per million tokens: from 0 to {_DEAREST:,}, with at most {_PLACES} decimal places"
    raise Refused(f"{excerpt(text)} is not a price of {kind.replace('_', ' ')} tokens", hint=hint, field=kind)


def strip_zeros(amount: Decimal) -> Decimal:
    """Return the amount without trailing zeros."""
    short = amount.normalize(_EXACT)
    exponent = short.as_tuple().exponent
    return short.quantize(Decimal(1), context=_EXACT) if isinstance(exponent, int) and exponent > 0 else short


def _count(usage: Usage | CostRecord, name: str) -> int:
    """Return a number of tokens in ``extra``; 0 for an invalid one."""
    value = usage.extra.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST else 0
