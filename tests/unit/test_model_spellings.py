"""Test names of models as in logs: each has the price of the model that it means, or none; never another's."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices
from hypothesis import given
from hypothesis import strategies as st

from coordination.adapters import price_list
from coordination.domain.money.pricing import PriceBook, PricedCall, Quote, Rate, UnknownPrice
from coordination.domain.tasks.attempts import Usage
from tests.support.sources import ROOT

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
LISTED = {f"{provider.id}/{model.id}": model for provider in providers for model in provider.models}

with (ROOT / "tests/data/model-names.tsv").open(newline="") as file:
    TABLE = [(row["name"], row["model"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def rate(listed: object) -> Rate | None:
    """Return a rate of the list, parsed here independently of the tested code."""
    if isinstance(listed, TieredPrices):
        return Rate(listed.base, tuple((tier.start, tier.price) for tier in listed.tiers))
    return listed if listed is None else Rate(Decimal(str(listed)))


def test_the_table_is_one_of_names_that_the_list_knows_and_of_names_that_nobody_can() -> None:
    meant = {model for _, model in TABLE if model not in ("unknown", "free")}

    assert len(TABLE) >= 300
    assert len({name for name, _ in TABLE}) == len(TABLE)
    # A newer list may leave models out; a table of models that were never in it would prove nothing.
    assert len(meant & LISTED.keys()) > 0.9 * len(meant) > 80


@pytest.mark.parametrize(("name", "model"), TABLE)
def test_a_name_has_the_price_of_the_model_that_it_means_or_none(name: str, model: str) -> None:
    quote = price_list.quote(name, AT)

    if model == "free":
        assert isinstance(quote, Quote), quote
        assert quote.price.is_free()
    elif model == "unknown" or model not in LISTED:
        assert isinstance(quote, UnknownPrice), quote
        assert quote.why
    else:
        assert isinstance(quote, Quote), quote
        price: ModelPrice = LISTED[model].get_prices(AT)
        assert quote.called == model
        assert (quote.price.input, quote.price.output) == (rate(price.input_mtok), rate(price.output_mtok))
        assert quote.price.cached_input == rate(price.cache_read_mtok)


def test_no_name_that_is_longer_than_a_model_s_has_its_price() -> None:
    for called, model in [*LISTED.items()][::4]:
        provider = called.partition("/")[0]
        for name in (f"{provider}:{model.id}-zz", f"{provider}/{model.id}0", f"zz-{model.id}", f"zz/{model.id}"):
            quote = price_list.quote(name, AT)
            assert isinstance(quote, UnknownPrice) or quote.called.lower() == name.replace(":", "/", 1).lower(), (
                name,
                quote,
            )


def test_a_model_that_is_named_as_in_the_list_has_its_own_price_or_none() -> None:
    number = 0
    for called, model in LISTED.items():
        quote = price_list.quote(called.replace("/", ":", 1), AT)
        if isinstance(quote, Quote):
            number += 1
            price: ModelPrice = model.get_prices(AT)
            assert quote.called == called or quote.price.is_free(), (called, quote)
            assert quote.price.is_free() or quote.price.input == rate(price.input_mtok), called

    assert number > 0.8 * len(LISTED)


@given(
    st.lists(
        st.sampled_from(
            [*":/@.-", "[1m]", ":free", "claude", "arn:aws:bedrock:", "us.", "anthropic.", "ft:", "models/"]
        )
        | st.text(max_size=4),
        max_size=12,
    ).map("".join)
)
def test_no_name_breaks_it(name: str) -> None:
    assert isinstance(price_list.quote(name, AT), Quote | UnknownPrice)


def test_free_models_of_openrouter_say_whose_word_that_is() -> None:
    quote = price_list.quote("openrouter/qwen/qwen3-coder:free", AT)

    assert isinstance(quote, Quote)
    assert (quote.by, quote.called) == ("OpenRouter's :free", "openrouter/qwen/qwen3-coder:free")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("azure/gpt-4o", "Azure deployment"),
        ("deepseek/deepseek-r1:free", "only names that start with openrouter/"),
        ("deepseek/deepseek-r1", "use openrouter/deepseek/deepseek-r1 or deepseek:deepseek-r1"),
        ("gpt-4o-realtime-preview", "text, sound or images"),
        ("claude-sonnet-4-20250514[1m]", "long context"),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "ARN"),
        ("bedrock/ap-south-1/meta.llama3-70b-instruct-v1:0", "for that region"),
        ("projects/p/locations/l/endpoints/1", "Vertex AI endpoint"),
        ("house:gpt-5-mini", "its provider is not in the price list"),
    ],
)
def test_what_is_unknown_says_why(name: str, why: str) -> None:
    quote = price_list.quote(name, AT)

    assert isinstance(quote, UnknownPrice)
    assert why in quote.why


def test_calls_with_a_long_context_have_their_rate_and_none_where_their_length_is_not_told() -> None:
    book = PriceBook(price_list=price_list.quote)
    one = Usage("claude-sonnet-4-5[1m]", input_tokens=300_000, output_tokens=0)
    summed = replace(one, extra={"summed": True})

    priced = book.price_call(one, None, AT)
    assert isinstance(priced, PricedCall)
    assert priced.usd == Decimal("1.8")
    unknown = book.price_call(summed, None, AT)
    assert isinstance(unknown, UnknownPrice)
    assert "the length of each call is unknown" in unknown.why
    assert isinstance(book.price_call(replace(summed, model="claude-sonnet-4-5"), None, AT), PricedCall)
    assert isinstance(book.price_call(replace(summed, model="claude-opus-4-6[1m]"), None, AT), PricedCall)
