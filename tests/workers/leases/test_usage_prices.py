"""Test how a worker reads prices: only when needed, again after a change, and never with an error that fails a job."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal

import pytest

from coordination.adapters import price_list
from coordination.base.errors import DatabaseUnavailable
from coordination.domain.money.pricing import PROVIDER
from coordination.domain.tasks.attempts import Usage
from coordination.services.money import prices as service
from coordination.services.projects import projects as project_service
from coordination.store.engine import Store, open_store
from coordination.store.queries.projects import projects
from tests.support.jobs import claim_of
from workers.leases import usage_meter as module
from workers.leases.usage_meter import UsagePrices

CALL = Usage("gpt-5-mini", input_tokens=1_000_000)


def spent(prices: UsagePrices, *usage: Usage, **of: str) -> list[Decimal | None]:
    return [prices.add_cost(claim_of({}, **of), used).cost_usd for used in usage]


@pytest.fixture
def place(store: Store) -> dict[str, str]:
    with store.write() as tx:
        workspace = projects.get_or_create_workspace(tx, "default")
        project = project_service.resolve(tx, workspace, identity="example.org/p", name="p", path=None)
    return {"workspace_id": workspace, "project_id": project.id}


def test_what_has_no_cost_gets_one_and_what_was_told_stays(store: Store, place: dict[str, str]) -> None:
    record = Usage("gpt-5-mini", input_tokens=1, cost_usd=Decimal(0), extra={"x": 1})
    values = CALL, record, Usage("nobody's", input_tokens=5)

    prices, claim = UsagePrices(store), claim_of({}, **place)
    first, second, third = (prices.add_cost(claim, used) for used in values)

    assert (first.cost_usd, first.extra["priced_by"]) == (Decimal("0.25"), price_list.name())
    assert first.extra["prices"] == {"of": "openai/gpt-5-mini", "input": "0.25"}
    assert (second, third) == values[1:]


def test_what_was_called_by_bedrock_and_openrouter_has_their_price_and_by_azure_none(
    store: Store, place: dict[str, str]
) -> None:
    names = ("us.anthropic.claude-3-haiku-20240307-v1:0", "openrouter/qwen/qwen3-coder:free", "azure/gpt-4o")

    costs = spent(UsagePrices(store), *(replace(CALL, model=name) for name in names), **place)

    assert costs == [Decimal("0.25"), 0, None]


def test_a_chat_s_calls_have_the_price_of_the_provider_that_was_asked(store: Store, place: dict[str, str]) -> None:
    providers = [
        ("vllm", "gpt-5-mini"),
        ("ollama", "deepseek-chat"),
        ("openrouter", "deepseek/deepseek-r1:free"),
        ("cerebras", "gpt-oss-120b"),
        ("deepseek", "deepseek-chat"),
        ("fireworks", "accounts/fireworks/models/glm-4p7"),
    ]
    calls = [replace(CALL, model=model, extra={PROVIDER: provider}) for provider, model in providers]
    prices = UsagePrices(store)

    first, second, free, *others = spent(prices, *calls, **place)

    assert (first, second, free) == (None, None, 0)
    names = ("cerebras/gpt-oss-120b", "deepseek:deepseek-chat", "accounts/fireworks/models/glm-4p7")
    assert others == spent(prices, *(replace(CALL, model=name) for name in names), **place)
    assert None not in others


def test_a_price_that_was_set_for_a_chat_s_name_counts_for_its_calls(store: Store, place: dict[str, str]) -> None:
    with store.write() as tx:
        for name, dollars in (("vllm:house", "2"), ("other", "3")):
            service.set_price(tx, place["workspace_id"], name, {"input": dollars, "output": dollars})
    calls = [replace(CALL, model=name, extra={PROVIDER: "vllm"}) for name in ("house", "other", "third")]

    assert spent(UsagePrices(store), *calls, **place) == [2, 3, None]


def test_a_price_that_is_set_counts_within_a_second(
    store: Store, place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    prices = UsagePrices(store)
    assert spent(prices, CALL, **place) == [Decimal("0.25")]
    with store.write() as tx:
        service.set_price(
            tx, place["workspace_id"], "GPT-5-mini", {"input": "7", "output": "7"}, project_id=place["project_id"]
        )
    now[0] += 1.1

    assert spent(prices, CALL, **place) == [Decimal(7)]
    assert spent(prices, CALL, **place | {"project_id": place["workspace_id"]}) == [Decimal("0.25")]


def test_nothing_is_asked_for_what_tells_its_cost_or_uses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "read", lambda: pytest.fail("asked the store"))
    prices = UsagePrices(store)

    assert spent(prices) == []
    assert spent(prices, Usage("m", cost_usd=Decimal(1))) == [1]


def test_a_store_that_is_away_costs_the_price_not_the_job(tmp_path) -> None:
    prices = UsagePrices(open_store(f"sqlite:///{tmp_path / 'no' / 'such.db'}"))
    with pytest.raises(DatabaseUnavailable):
        prices._book("ws")

    assert spent(prices, CALL) == [None]


def test_a_list_that_is_broken_costs_the_price_not_the_job(
    store: Store, place: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.write() as tx:
        service.set_price(tx, place["workspace_id"], "mine", {"input": "1", "output": "1"})
    price_list._find.cache_clear()
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)

    assert spent(UsagePrices(store), CALL, Usage("mine", input_tokens=1_000_000), **place) == [None, 1]
