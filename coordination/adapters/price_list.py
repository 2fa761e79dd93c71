"""Looks up prices in the list of the package genai-prices, which is loaded at the first use.

Nothing is downloaded: the list is as old as the installed package. ``domain.money.model_names`` parses the names.
Providers that are not in the list, such as private servers, have no prices, whatever the names of their models.

The list's own rules match many names that only start with or contain a model's name. A match counts only if the list
has the name exactly, apart from dates and versions, so that no price is guessed.
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
from coordination.domain.money.model_names import (
    FREE,
    OPENROUTER,
    ModelName,
    is_multimodal,
    parse_model_name,
    spellings,
)
from coordination.domain.money.pricing import Price, Quote, Rate, UnknownPrice, model_key

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
    """Return the name and version of the list, which are stored with computed costs."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE


def quote(model: str, at: datetime) -> Quote | UnknownPrice:
    """Return the list's price of *model* at a moment. Raises Unavailable when the list cannot be loaded."""
    match = _find(model_key(model))
    if isinstance(match, UnknownPrice):
        return match
    if match.info is None:
        return Quote(_NOTHING, f"OpenRouter's {FREE}", match.name)
    price = _price(match.info.get_prices(at))
    if price == Price():
        return UnknownPrice("the list has the model, but no price for it")
    if match.long and not price.has_steps() and (match.info.context_window or 0) < _LONG_CONTEXT:
        return UnknownPrice("the list has no price for its long context")
    return Quote(price, name(), match.name, long=match.long)


@dataclass(frozen=True, slots=True)
class _ListedModel:
    """A model of the list; *info* None: a free one, which may be missing in the list."""

    name: str
    info: ModelInfo | None = None
    long: bool = False


@lru_cache(maxsize=_REMEMBERED)
def _find(model: str) -> _ListedModel | UnknownPrice:
    _load()
    parsed = parse_model_name(model)
    if isinstance(parsed, UnknownPrice):
        return parsed
    if parsed.free:
        return _ListedModel(f"{parsed.provider}/{parsed.model}")
    return _find_listed(_without_variant(parsed))


def _find_listed(reading: ModelName) -> _ListedModel | UnknownPrice:
    """Return the listed model of a name, if the price of its tokens is unambiguous."""
    providers = {each.id: each for each in _load()}
    stated = reading.provider
    provider = _guess_provider(providers, reading.model) if stated is None else providers.get(stated)
    if provider is None:
        return UnknownPrice(_NOT_LISTED if stated is None else "its provider is not in the price list")
    owner, info = _find_at(provider, providers, reading.model)
    if info is None:
        return UnknownPrice(_NOT_LISTED)
    if is_multimodal(reading.model) or _mixed(info):
        return UnknownPrice(
            "its tokens are text, sound or images at different prices, and their kinds are not reported"
        )
    if reading.slug is not None and provider.id != OPENROUTER and _differs_at_openrouter(reading.slug, info):
        return UnknownPrice(
            f"OpenRouter has a model of this name too, at another price; use {OPENROUTER}/{reading.slug} "
            f"or {owner.id}:{reading.model}"
        )
    return _ListedModel(f"{owner.id}/{info.id}", info, reading.long)


def _without_variant(reading: ModelName) -> ModelName:
    """Remove OpenRouter's variant (``:thinking``) from a name if the list has one price for both."""
    base, variant, _ = reading.model.rpartition(":")
    if not variant or reading.slug is None:
        return reading
    slug = reading.slug.rpartition(":")[0]
    models = _models_by_name(OPENROUTER)
    same = slug in models and models[slug] is models.get(reading.slug)
    return replace(reading, model=base, slug=slug) if same else reading


def _guess_provider(providers: Mapping[str, Provider], model: str) -> Provider | None:
    """Return the provider of a name without one, by the list's own rules."""
    return next((each for each in providers.values() if each.model_match and each.model_match.is_match(model)), None)


def _find_at(provider: Provider, providers: Mapping[str, Provider], model: str) -> tuple[Provider, ModelInfo | None]:
    """Return the model of exactly this name, or the one that the list's rules find if only its snapshot differs."""
    owners = [provider, *(providers[one] for one in provider.fallback_model_providers or () if one in providers)]
    for owner in owners:
        if (info := _models_by_name(owner.id).get(model)) is not None:
            return owner, info
    for owner in owners:
        info = owner.find_model(model)
        if info is not None and _has_name(info, spellings(provider.id, model)):
            return owner, info
    return provider, None


def _differs_at_openrouter(slug: str, info: ModelInfo) -> bool:
    """Return whether OpenRouter's model of this name has another price, or higher rates for long calls."""
    other = _models_by_name(OPENROUTER).get(slug)
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
    """Return whether the model has separate prices for images or sound."""
    kinds = (kind for price in _all_prices(info) for kind, listed in vars(price).items() if listed is not None)
    return any(_NOT_TEXT.match(kind) for kind in kinds)


def _all_prices(info: ModelInfo) -> list[ModelPrice]:
    return [one.prices for one in info.prices] if isinstance(info.prices, list) else [info.prices]


@lru_cache(maxsize=200)
def _models_by_name(provider_id: str) -> Mapping[str, ModelInfo]:
    """Return the models of a provider by the full names in the list."""
    models = next((each.models for each in _load() if each.id == provider_id), [])
    by_name: dict[str, ModelInfo] = {}
    for info in models:
        for condition in _clauses(info.match):
            if (whole := getattr(condition, "equals", None)) is not None:
                by_name.setdefault(whole.lower(), info)
    for info in models:
        by_name.setdefault(info.id.lower(), info)
    return by_name


def _has_name(info: ModelInfo, names: Collection[str]) -> bool:
    """Return whether one of these names is in the list's rule for the model, or matches a full pattern there."""
    if info.id.lower() in names:
        return True
    for condition in _clauses(info.match):
        texts = (getattr(condition, kind, None) for kind in ("equals", "starts_with", "contains", "ends_with"))
        if any(text is not None and text.lower() in names for text in texts):
            return True
        pattern = getattr(condition, "regex", None) or ""
        whole = pattern.startswith("^") and pattern.endswith("$") and "(?" not in pattern
        if whole and any(re.match(pattern, each) for each in names):
            return True
    return False


def _clauses(match: object) -> Iterator[object]:
    """Yield the conditions of a rule."""
    parts = getattr(match, "or_", None) or getattr(match, "and_", None)
    if parts is None:
        yield match
    for part in parts or ():
        yield from _clauses(part)


def _load() -> list[Provider]:
    try:
        from genai_prices.data import providers
    except Exception as error:  # any error: calls are then recorded without a price
        raise Unavailable(f"The price list {PACKAGE} cannot be loaded: {error}") from error
    return providers


def _price(listed: ModelPrice) -> Price:
    rates = vars(listed)  # because attribute access to missing rates searches all units
    requests = rates.get("requests_kcount")
    return Price(
        input=_rate(rates.get("input_mtok")),
        output=_rate(rates.get("output_mtok")),
        cached_input=_rate(rates.get("cache_read_mtok")),
        cache_write=_rate(rates.get("cache_write_mtok")),
        cache_write_1h=_rate(rates.get("cache_write_1h_mtok")),
        reasoning=_rate(rates.get("output_reasoning_mtok")),
        request=requests.scaleb(-3) if isinstance(requests, Decimal) else None,
    )


def _rate(listed: object) -> Rate | None:
    from genai_prices.types import TieredPrices

    if isinstance(listed, TieredPrices):
        return Rate(listed.base, tuple((tier.start, tier.price) for tier in listed.tiers))
    return Rate(listed) if isinstance(listed, Decimal) else None
