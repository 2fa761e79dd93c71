"""The price list that comes with the package genai-prices, asked by a model's name. Loaded at the first question.

Nothing is fetched: the list is as old as the installed package. Whose model a name means, domain.model_names says. A
provider that is not in the list (a server of one's own) has no prices there, whatever its models are called.

The list's own rules take many names that only begin like a model's, or hold its name. They are asked, and what they
answer counts only if the list has that name too, letter for letter, but for dates and versions: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from coordination.base.errors import Unavailable
from coordination.domain.money.model_names import FREE, OPENROUTER, ModelName, mixed, read, spellings
from coordination.domain.money.pricing import Price, Quote, Rate, UnknownPrice, key_of

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

PACKAGE = "genai-prices"

_REMEMBERED = 2_000
_NOT_LISTED = "it is not in the price list"
_LONG_CONTEXT = 1_000_000
_NOT_TEXT = re.compile("output_(audio|image|video)_|(input_|output_)?audio_hours$")
_NOTHING = Price(Rate(Decimal(0)), Rate(Decimal(0)))


@lru_cache(maxsize=1)
def name() -> str:
    """The list and its version, as it stands beside what it priced."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE


def quote(model: str, at: datetime) -> Quote | UnknownPrice:
    """The list's price of *model* at a moment. Raises Unavailable when the list cannot be loaded."""
    found = _find(key_of(model))
    if isinstance(found, UnknownPrice):
        return found
    if found.info is None:
        return Quote(_NOTHING, f"OpenRouter's {FREE}", found.called)
    price = _price(found.info.get_prices(at))
    if price == Price():
        return UnknownPrice("the list knows it, but has no price for it")
    if found.long and not price.has_steps() and (found.info.context_window or 0) < _LONG_CONTEXT:
        return UnknownPrice("the list has no price for its long context")
    return Quote(price, name(), found.called, long=found.long)


@dataclass(frozen=True, slots=True)
class _Found:
    """A model of the list; no *info*: one that costs nothing, whether it is there or not."""

    called: str
    info: ModelInfo | None = None
    long: bool = False


@lru_cache(maxsize=_REMEMBERED)
def _find(model: str) -> _Found | UnknownPrice:
    _loaded()
    reading = read(model)
    if isinstance(reading, UnknownPrice):
        return reading
    if reading.free:
        return _Found(f"{reading.provider}/{reading.model}")
    return _listed(_without_variant(reading))


def _listed(reading: ModelName) -> _Found | UnknownPrice:
    """The model that a name means, with the price that its tokens have by it."""
    providers = {each.id: each for each in _loaded()}
    said = reading.provider
    provider = _of_its_name(providers, reading.model) if said is None else providers.get(said)
    if provider is None:
        return UnknownPrice(_NOT_LISTED if said is None else "the price list does not know its provider")
    owner, info = _at(provider, providers, reading.model)
    if info is None:
        return UnknownPrice(_NOT_LISTED)
    if mixed(reading.model) or _mixed(info):
        return UnknownPrice("which of its tokens are text, sound or pictures is not told, and their prices differ")
    if reading.slug is not None and provider.id != OPENROUTER and _differs_at_openrouter(reading.slug, info):
        return UnknownPrice(
            f"OpenRouter, too, has a model of this name, at another price; call it {OPENROUTER}/{reading.slug} "
            f"or {owner.id}:{reading.model}"
        )
    return _Found(f"{owner.id}/{info.id}", info, reading.long)


def _without_variant(reading: ModelName) -> ModelName:
    """A name without OpenRouter's variant behind it (``:thinking``), where the list has one price for both."""
    base, variant, _ = reading.model.rpartition(":")
    if not variant or reading.slug is None:
        return reading
    slug = reading.slug.rpartition(":")[0]
    known = _named(OPENROUTER)
    same = slug in known and known[slug] is known.get(reading.slug)
    return replace(reading, model=base, slug=slug) if same else reading


def _of_its_name(providers: Mapping[str, Provider], model: str) -> Provider | None:
    """Whose a name without a provider is, by the list's own rules."""
    return next((each for each in providers.values() if each.model_match and each.model_match.is_match(model)), None)


def _at(provider: Provider, providers: Mapping[str, Provider], model: str) -> tuple[Provider, ModelInfo | None]:
    """The model of this very name; where there is none, the one that the list finds, if only its snapshot differs."""
    owners = [provider, *(providers[one] for one in provider.fallback_model_providers or () if one in providers)]
    for owner in owners:
        if (info := _named(owner.id).get(model)) is not None:
            return owner, info
    for owner in owners:
        info = owner.find_model(model)
        if info is not None and _says(info, spellings(provider.id, model)):
            return owner, info
    return provider, None


def _differs_at_openrouter(slug: str, info: ModelInfo) -> bool:
    """Whether what OpenRouter calls so has another price than this model ever has, or rises where this does not."""
    other = _named(OPENROUTER).get(slug)
    if other is None:
        return False
    ours, theirs = ([_price(one) for one in _all_prices(each)] for each in (info, other))
    theirs = [one for one in theirs if one != Price()]
    bases = {_base(one) for one in ours}
    rises = any(one.has_steps() for one in theirs) and not any(one.has_steps() for one in ours)
    return rises or any(_base(one) not in bases for one in theirs)


def _base(price: Price) -> tuple[Decimal | None, Decimal | None]:
    return (price.input.usd if price.input else None, price.output.usd if price.output else None)


def _mixed(info: ModelInfo) -> bool:
    """Whether what it makes may be pictures or sound, at a price of their own."""
    kinds = (kind for price in _all_prices(info) for kind, listed in vars(price).items() if listed is not None)
    return any(_NOT_TEXT.match(kind) for kind in kinds)


def _all_prices(info: ModelInfo) -> list[ModelPrice]:
    return [one.prices for one in info.prices] if isinstance(info.prices, list) else [info.prices]


@lru_cache(maxsize=200)
def _named(provider_id: str) -> Mapping[str, ModelInfo]:
    """The models of a provider by the names that stand in the list as whole names."""
    models = next((each.models for each in _loaded() if each.id == provider_id), [])
    found: dict[str, ModelInfo] = {}
    for info in models:
        for one in _clauses(info.match):
            if (whole := getattr(one, "equals", None)) is not None:
                found.setdefault(whole.lower(), info)
    for info in models:
        found.setdefault(info.id.lower(), info)
    return found


def _says(info: ModelInfo, names: Collection[str]) -> bool:
    """Whether one of these names stands in the list's rule for the model, or is all that a pattern there describes."""
    if info.id.lower() in names:
        return True
    for one in _clauses(info.match):
        texts = (getattr(one, kind, None) for kind in ("equals", "starts_with", "contains", "ends_with"))
        if any(text is not None and text.lower() in names for text in texts):
            return True
        pattern = getattr(one, "regex", None) or ""
        whole = pattern.startswith("^") and pattern.endswith("$") and "(?" not in pattern
        if whole and any(re.match(pattern, each) for each in names):
            return True
    return False


def _clauses(match: object) -> Iterator[object]:
    """The parts of a rule that say what a name may be."""
    parts = getattr(match, "or_", None) or getattr(match, "and_", None)
    if parts is None:
        yield match
    for part in parts or ():
        yield from _clauses(part)


def _loaded() -> list[Provider]:
    try:
        from genai_prices.data import providers
    except Exception as error:  # a bulkhead: whatever is the matter with it, calls are recorded without a price
        raise Unavailable(f"The price list {PACKAGE} cannot be loaded: {error}") from error
    return providers


def _price(listed: ModelPrice) -> Price:
    said = vars(listed)  # asked for what it does not have, the list looks through all units that there are
    requests = said.get("requests_kcount")
    return Price(
        input=_rate(said.get("input_mtok")),
        output=_rate(said.get("output_mtok")),
        cached_input=_rate(said.get("cache_read_mtok")),
        cache_write=_rate(said.get("cache_write_mtok")),
        cache_write_1h=_rate(said.get("cache_write_1h_mtok")),
        reasoning=_rate(said.get("output_reasoning_mtok")),
        request=requests.scaleb(-3) if isinstance(requests, Decimal) else None,
    )


def _rate(listed: object) -> Rate | None:
    from genai_prices.types import TieredPrices

    if isinstance(listed, TieredPrices):
        return Rate(listed.base, tuple((tier.start, tier.price) for tier in listed.tiers))
    return Rate(listed) if isinstance(listed, Decimal) else None
