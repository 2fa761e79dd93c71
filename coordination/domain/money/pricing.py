"""What model calls cost: a price for each kind of token, exact arithmetic, and which price goes first. Pure.

Prices are US dollars for a million tokens. Cached input and what is written to a cache are part of the input tokens of
a call, reasoning is part of its output tokens; a kind without a price of its own costs as much as what it is part of.
What cannot be priced is Unknown, with the reason; it is never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

from coordination.base.errors import Refused
from coordination.base.money import ZERO, usd
from coordination.base.wording import excerpt
from coordination.domain.money.costs import CostRecord, correction_id
from coordination.domain.tasks.attempts import Usage

KINDS = ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning")

SUMMED = "summed"
"""The mark, in a record's ``extra``, of usage that was added up over several calls."""

PRICED_BY, PRICES, AMOUNTS = "priced_by", "prices", "reported_amounts"
ASKED_OF = "asked_of"
"""The mark, in a record's ``extra``, of the provider that a chat was held with, where others serve the same models."""

OURS = frozenset({PRICED_BY, PRICES, AMOUNTS, ASKED_OF})
"""What we write into ``extra`` of a cost that was computed, or reported with several amounts, and nobody else may."""

OVERRIDE = "override"

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_DEAREST = Decimal(1_000_000)
_PLACES = 12
_LONGEST_NAME = 200
_MOST = 1 << 63
_LARGEST_COST = Decimal(10) ** 12


@dataclass(frozen=True, slots=True)
class Rate:
    """Dollars for a million tokens; *steps*: (more input than so many tokens, dollars for all of them), rising."""

    usd: Decimal
    steps: tuple[tuple[int, Decimal], ...] = ()

    def of(self, input_tokens: int) -> Decimal:
        """The rate of a call with so much input."""
        reached = [price for above, price in self.steps if input_tokens > above]
        return reached[-1] if reached else self.usd


@dataclass(frozen=True, slots=True)
class Price:
    """The rates of a model; ``request``: dollars for each call besides."""

    input: Rate | None = None
    output: Rate | None = None
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    reasoning: Rate | None = None
    request: Decimal | None = None

    def rate(self, kind: str) -> Rate | None:
        """What tokens of this kind cost, by their own price or by that of what they are part of."""
        own: Rate | None = getattr(self, kind)
        if own is not None or kind in ("input", "output"):
            return own
        return self.rate({"reasoning": "output", "cache_write_1h": "cache_write"}.get(kind, "input"))

    def has_steps(self) -> bool:
        """Whether a long call costs more for each token."""
        return any(rate.steps for kind in KINDS if (rate := self.rate(kind)) is not None)

    def is_free(self) -> bool:
        """Whether a call costs nothing, whatever it uses."""
        rates = [rate for kind in KINDS if (rate := self.rate(kind)) is not None]
        return not self.request and not any(rate.usd or any(price for _, price in rate.steps) for rate in rates)


@dataclass(frozen=True, slots=True)
class UnknownPrice:
    """There is no price, or no sum; ``why`` as half a sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A model's price, who says so (``genai-prices 0.2.3``, ``override``), and what the model is called there.

    *long*: its name says that its calls may be long ones (``[1m]``).
    """

    price: Price
    by: str
    called: str
    long: bool = False


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """A price that a person has set, for one project or for all of the workspace."""

    model: str
    price: Price
    project_id: str | None = None
    set_by: str | None = None
    set_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PricedCall:
    """A computed cost; ``note``: by which list and rates, for the record's ``extra``."""

    usd: Decimal
    note: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many of each kind, none counted in two: ``input`` is what was neither cached nor written to a cache."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    summed: bool = False

    @property
    def all_input(self) -> int:
        """What the model read."""
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h


Listed = Callable[[str, datetime], Quote | UnknownPrice]
"""A price list: the price of a model at a moment."""


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Where prices are looked up: what a project says goes before what the workspace says, and that before the list."""

    overrides: Mapping[tuple[str | None, str], PriceOverride] = field(default_factory=dict)
    listed: Listed = lambda _model, _at: UnknownPrice("there is no price list")

    def quote(
        self, model: str, project_id: str | None, at: datetime, *, asked_of: str | None = None
    ) -> Quote | UnknownPrice:
        """The price of *model* in a project at a moment; *asked_of*: of which provider, if its name does not say so."""
        whole = f"{asked_of}:{model}" if asked_of else model
        places = (project_id, None) if project_id is not None else (None,)
        for place in places:
            for name in dict.fromkeys((key_of(model), key_of(whole))):
                if (found := self.overrides.get((place, name))) is not None:
                    return Quote(found.price, f"{OVERRIDE} of the {'workspace' if place is None else 'project'}", name)
        return self.listed(whole, at)

    def priced(self, used: Usage | CostRecord, project_id: str | None, at: datetime) -> PricedCall | UnknownPrice:
        """What these tokens cost."""
        tokens = tokens_of(used)
        if isinstance(tokens, UnknownPrice):
            return tokens
        said = used.extra.get(ASKED_OF)
        quote = self.quote(used.model, project_id, at, asked_of=said if isinstance(said, str) else None)
        return quote if isinstance(quote, UnknownPrice) else priced(tokens, quote)


def book(overrides: Iterable[PriceOverride], listed: Listed) -> PriceBook:
    """A book of these overrides and a list."""
    return PriceBook({(one.project_id, key_of(one.model)): one for one in overrides}, listed)


def key_of(model: str) -> str:
    """Names of models are the same however their letters are written."""
    return model.strip().lower()


def tokens_of(used: Usage | CostRecord) -> Tokens | UnknownPrice:
    """The tokens of a record, each in its kind once; Unknown when it tells none, or contradicts itself."""
    given, made = used.input_tokens, used.output_tokens
    cached, reasoned = used.cached_input_tokens, _count(used, "reasoning_output_tokens")
    written, kept_long = _count(used, "cache_write_input_tokens"), _count(used, "cache_write_1h_input_tokens")
    if not given and not made:
        return UnknownPrice("no tokens of it are told")
    if cached + written > given or kept_long > written:
        return UnknownPrice("more of its input was cached than there was")
    if reasoned > made:
        return UnknownPrice("more of its output was reasoning than there was")
    return Tokens(
        input=given - cached - written,
        cached_input=cached,
        cache_write=written - kept_long,
        cache_write_1h=kept_long,
        output=made - reasoned,
        reasoning=reasoned,
        summed=bool(used.extra.get(SUMMED)),
    )


def priced(tokens: Tokens, quote: Quote) -> PricedCall | UnknownPrice:
    """The exact cost of *tokens*. What was added up over several calls has the rates of short ones."""
    if tokens.summed and quote.long and quote.price.has_steps():
        return UnknownPrice("long calls of it cost more, and how long each call was is not told")
    length = 0 if tokens.summed else tokens.all_input
    total, rates = ZERO, {}
    for kind in KINDS:
        count: int = getattr(tokens, kind)
        if not count:
            continue
        rate = quote.price.rate(kind)
        if rate is None:
            return UnknownPrice(f"the list has no price for its {'output' if kind in _MADE else 'input'}")
        dollars = rate.of(length)
        rates[kind] = f"{dollars:f}"
        total = _EXACT.add(total, _EXACT.multiply(dollars, Decimal(count)))
    total = _EXACT.scaleb(total, -6)
    if quote.price.request is not None:
        if tokens.summed:
            return UnknownPrice("it costs something for each call, and how many there were is not told")
        total = _EXACT.add(total, quote.price.request)
        rates["request"] = f"{quote.price.request:f}"
    if total > _LARGEST_COST:
        return UnknownPrice("it would cost more than can be kept")
    return PricedCall(plain(total), {PRICED_BY: quote.by, PRICES: {"of": quote.called, **rates}})


_MADE = ("output", "reasoning")


def correction(
    record: CostRecord, made: Sequence[CostRecord], found: PricedCall, *, actor: str | None = None
) -> CostRecord | None:
    """The record that makes *record*, with the corrections *made* before, cost what was *found*; None when it does.

    Its id follows from the record and from how many corrections there are: whoever corrects the same twice, or at the
    same time, adds one.
    """
    known = [one.cost_usd for one in (record, *made) if one.cost_usd is not None]
    stands = sum_of(known)
    if known and stands == found.usd:
        return None
    return replace(
        record,
        id=correction_id(record.id, len(made) + 1),
        input_tokens=0,
        output_tokens=0,
        cached_input_tokens=0,
        total_tokens=0,
        cost_usd=plain(_EXACT.subtract(found.usd, stands)),
        extra={**found.note, **({"corrected_by": actor} if actor else {})},
        corrects=record.id,
        settles=not known,
    )


def sum_of(amounts: Iterable[Decimal]) -> Decimal:
    """Their sum, with every digit."""
    total = ZERO
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def of_tokens(count: int, dollars: Decimal) -> Decimal:
    """What so many tokens cost at a rate of *dollars* for a million, exactly."""
    return plain(_EXACT.scaleb(_EXACT.multiply(dollars, Decimal(count)), -6))


def is_computed(record: CostRecord) -> bool:
    """Whether its cost is ours, not told by who made the call."""
    return record.cost_usd is not None and PRICED_BY in record.extra


def checked_model(model: str) -> str:
    """The name that a price is set for, as it is compared; Refused when it is none."""
    name = key_of(model)
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise Refused(
            f"{excerpt(model)} is no name of a model", hint="Name it as it stands in: coord costs list", field="model"
        )
    return name


def checked_price(rates: Mapping[str, str | None]) -> Price:
    """A price from what a person says for each kind; Refused for what is no amount that can be charged."""
    given: dict[str, Any] = {kind: Rate(_dollars(kind, said)) for kind, said in rates.items() if said is not None}
    return Price(**given)


def _dollars(kind: str, said: str) -> Decimal:
    try:
        amount = usd(said)
        exponent = amount.as_tuple().exponent
        if 0 <= amount <= _DEAREST and isinstance(exponent, int) and -exponent <= _PLACES:
            return plain(amount.copy_abs())
    except Refused:
        pass
    raise Refused(
        f"{excerpt(said)} is no price of {kind.replace('_', ' ')} tokens",
        hint=f"Give dollars per million tokens: from 0 to {_DEAREST:,}, with at most {_PLACES} decimal places",
        field=kind,
    )


def plain(amount: Decimal) -> Decimal:
    """The same amount without zeros at its end."""
    short = amount.normalize(_EXACT)
    exponent = short.as_tuple().exponent
    return short.quantize(Decimal(1), context=_EXACT) if isinstance(exponent, int) and exponent > 0 else short


def _count(used: Usage | CostRecord, name: str) -> int:
    """A number of tokens that stands in ``extra``; what is none counts for nothing."""
    value = used.extra.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST else 0
