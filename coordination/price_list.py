"""The price list that comes with the package genai-prices, asked by a model's name. Loaded at the first question.

Nothing is fetched: the list is as old as the installed package. A name is ``gpt-5-mini``, or says its provider first:
``openai:gpt-5-mini``, ``openrouter/anthropic/claude-sonnet-4``. A provider that is not in the list (a server of one's
own) has no prices there, whatever its models are called. Nothing is guessed: what the list does not know is unknown.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from coordination.domain.pricing import Price, Quote, Rate, Unknown, key_of
from coordination.errors import Unavailable

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

PACKAGE = "genai-prices"

_REMEMBERED = 2_000

# What programs put before a model's name, where the list calls the provider otherwise. The package has rules of its own
# for this; they take every name that holds "openai" for OpenAI, and with it many a server that only speaks like it.
_PROVIDERS = {
    **dict.fromkeys(("openai-chat", "openai-responses"), "openai"),
    **dict.fromkeys(("google-gla", "google-vertex", "vertex_ai", "vertex", "gemini"), "google"),
    **dict.fromkeys(("bedrock", "amazon-bedrock", "bedrock_converse"), "aws"),
    **dict.fromkeys(("xai", "grok"), "x-ai"),
    **dict.fromkeys(("together-ai", "together_ai", "togetherai"), "together"),
    **dict.fromkeys(("fireworks-ai", "fireworks_ai"), "fireworks"),
    "moonshot": "moonshotai",
    "mistralai": "mistral",
}


def name() -> str:
    """The list and its version, as it stands beside what it priced."""
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE


def quote(model: str, at: datetime) -> Quote | Unknown:
    """The list's price of *model* at a moment. Raises Unavailable when the list cannot be loaded."""
    found = _find(key_of(model))
    if isinstance(found, Unknown):
        return found
    provider, info = found
    price = _price(info.get_prices(at))
    if price == Price():
        return Unknown("the list knows it, but has no price for it")
    return Quote(price, name(), f"{provider.id}/{info.id}")


@lru_cache(maxsize=_REMEMBERED)
def _find(model: str) -> tuple[Provider, ModelInfo] | Unknown:
    providers = _loaded()
    provider, rest = _provider(providers, model)
    if provider is None:
        return Unknown("the price list does not know its provider" if rest != model else "it is not in the price list")
    info = provider.find_model(rest, all_providers=providers)
    return (provider, info) if info is not None else Unknown("it is not in the price list")


def _provider(providers: list[Provider], model: str) -> tuple[Provider | None, str]:
    """Whose model it is, and its name there."""
    marks = [place for mark in ":/" if (place := model.find(mark)) >= 0]
    if not marks:
        return next((each for each in providers if each.model_match and each.model_match.is_match(model)), None), model
    said, rest = model[: min(marks)], model[min(marks) + 1 :]
    known = _PROVIDERS.get(said, said)
    return next((each for each in providers if each.id == known), None), rest


def _loaded() -> list[Provider]:
    try:
        from genai_prices.data import providers
    except Exception as error:  # a bulkhead: whatever is the matter with it, calls are recorded without a price
        raise Unavailable(f"The price list {PACKAGE} cannot be loaded: {error}") from error
    return providers


def _price(listed: ModelPrice) -> Price:
    requests = listed.requests_kcount
    return Price(
        input=_rate(listed.input_mtok),
        output=_rate(listed.output_mtok),
        cached_input=_rate(listed.cache_read_mtok),
        cache_write=_rate(listed.cache_write_mtok),
        cache_write_1h=_rate(listed.cache_write_1h_mtok),
        reasoning=_rate(listed.output_reasoning_mtok),
        request=requests.scaleb(-3) if isinstance(requests, Decimal) else None,
    )


def _rate(listed: object) -> Rate | None:
    from genai_prices.types import TieredPrices

    if isinstance(listed, TieredPrices):
        return Rate(listed.base, tuple((tier.start, tier.price) for tier in listed.tiers))
    return Rate(listed) if isinstance(listed, Decimal) else None
