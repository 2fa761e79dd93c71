"""Test the list of genai-prices: names as agents and programs write them, and names that must not be guessed."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from coordination.adapters import price_list
from coordination.base.errors import Unavailable
from coordination.domain.money.pricing import Quote, Rate, UnknownPrice
from tests.support.refusals import refuses
from tests.support.sources import ROOT

AT = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "called"),
    [
        ("gpt-5-mini", "openai/gpt-5-mini"),
        ("GPT-5-Mini ", "openai/gpt-5-mini"),
        ("openai:gpt-5-mini", "openai/gpt-5-mini"),
        ("openai/gpt-5-mini", "openai/gpt-5-mini"),
        ("openai-responses:gpt-5-mini", "openai/gpt-5-mini"),
        ("claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("google-gla:gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("openrouter/anthropic/claude-sonnet-4", "openrouter/anthropic/claude-sonnet-4"),
    ],
)
def test_a_model_is_found_by_its_name(model: str, called: str) -> None:
    quote = price_list.quote(model, AT)

    assert isinstance(quote, Quote)
    assert quote.called == called
    assert quote.by.startswith("genai-prices 0.")
    assert not quote.price.is_free()


@pytest.mark.parametrize(
    "model",
    [
        *("", "m", "unknown", "codex-default", "gpt-99", "my-gpt-5-mini", "openai:", ":gpt-5-mini", "/gpt-5-mini"),
        *("mylocal:gpt-5-mini", "my-openai-proxy/gpt-5-mini", "ollama/qwen3", "deepseek-r1:14b", "mistral:7b"),
        *("openai:claude-sonnet-4-5", "ft:gpt-4.1-2025-04-14:acme::1", "x" * 200, "gpt-5-mini\0"),
        "github-copilot/gpt-4o",  # in the list, without a price
    ],
)
def test_nothing_is_guessed(model: str) -> None:
    assert isinstance(price_list.quote(model, AT), UnknownPrice)


def test_prices_are_those_of_the_provider_at_the_time_of_the_call() -> None:
    mini = price_list.quote("gpt-5-mini", AT)
    sonnet = price_list.quote("claude-sonnet-4-5", AT)

    assert isinstance(mini, Quote)
    assert isinstance(sonnet, Quote)
    # as the providers publish them
    assert [rate and rate.usd for rate in (mini.price.input, mini.price.cached_input, mini.price.output)] == [
        *(Decimal("0.25"), Decimal("0.025"), Decimal(2)),
    ]
    assert sonnet.price.input is not None
    assert (sonnet.price.input.usd, sonnet.price.input.steps) == (3, ((200_000, Decimal(6)),))
    assert [rate and rate.usd for rate in (sonnet.price.cache_write, sonnet.price.cache_write_1h)] == [
        *(Decimal("3.75"), Decimal(6)),
    ]
    early, late = (price_list.quote("o3", datetime(2025, month, 1, tzinfo=UTC)) for month in (6, 7))
    assert isinstance(early, Quote)
    assert isinstance(late, Quote)
    assert (early.price.input, late.price.input) == (Rate(Decimal(10)), Rate(Decimal(2)))


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)])
def test_a_time_that_no_list_knows_has_a_price_all_the_same(moment: datetime) -> None:
    for model in ("o3", "deepseek:deepseek-chat", "gpt-5-mini"):
        assert isinstance(price_list.quote(model, moment), Quote)


def test_a_fee_for_each_call_is_taken_along() -> None:
    quote = price_list.quote("perplexity:sonar", AT)

    assert isinstance(quote, Quote)
    assert quote.price.request == Decimal("0.012")


def test_a_list_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)

    with refuses(Unavailable):
        price_list.quote("never-asked-before", AT)


def test_no_network_is_asked_and_names_of_others_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))

    for number in range(3_000):
        price_list.quote(f"made-up-{number}", AT)

    assert price_list._find.cache_info().currsize <= 2_000
    assert isinstance(price_list.quote("gpt-5-mini", AT), Quote)


@pytest.mark.parametrize(
    "start", ["import coordination.cli.main", "import workers.process.lifecycle, workers.engine.executor"]
)
def test_who_asks_no_price_does_not_load_the_list(start: str) -> None:
    code = f"import sys; {start}; sys.exit(any(name.startswith('genai_prices') for name in sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert done.returncode == 0
