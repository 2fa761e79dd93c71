"""Test keys and addresses of each supported provider: what is sent where, and what is not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from coordination.domain.jobs import ChatCall
from coordination.domain.tasks.attempts import Outcome
from tests.support.chats import RETURNED, SAID, SERVER, Provider
from tests.support.jobs import Bench
from tests.support.model_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    ToolUse,
)
from workers.runners.chat.providers import PROVIDERS, find_access


class TestKeys:
    KEY = "sk-0123456789abcdef"

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", self.KEY)
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", self.KEY)
        monkeypatch.setenv("TEAM_KEY", "team-0123456789")

    def sent(self, provide, monkeypatch=None, **job: Any) -> dict[str, str]:
        with provide("ok") as provider:
            provider.server.every_turn = True
            if monkeypatch is not None:
                monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.server.url}/v1")
                job["url"] = None
            result = provider.run(**job)
            assert result.outcome is Outcome.COMPLETED, result.error
            (headers,) = provider.server.headers
        return headers

    def test_at_openais_own_address_it_speaks_the_newer_protocol(self, provide, monkeypatch) -> None:
        from workers.runners.chat import model_factory

        with provide(ToolUse("add", {"a": 1, "b": 2}), "It is 3") as provider:
            # Without an address, as for OpenAI's own; the test then gives the library the address of the stand-in.
            monkeypatch.setattr(
                model_factory, "_make_provider", lambda _, access, client: self.own(provider, client, access.key)
            )
            result = provider.run(url=None, tools=[SERVER], secrets=["OPENAI_API_KEY"])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert [report["output"] for report in provider.told(RETURNED)] == ["3"]
        (used,) = result.usage
        assert (used.input_tokens, used.output_tokens) == (2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
        assert (used.cached_input_tokens, used.extra["reasoning_output_tokens"]) == (200, 10)
        assert all("input" in requests for requests in provider.server.requests)
        assert provider.server.headers[0]["authorization"] == f"Bearer {self.KEY}"

    def own(self, provider: Provider, client: Any, key: str) -> Any:
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIProvider(base_url=f"{provider.server.url}/v1", api_key=key, http_client=client)

    @pytest.mark.parametrize("name", PROVIDERS)
    def test_every_provider_that_is_known_can_be_made_with_a_key_that_is_handed_over(self, name: str) -> None:
        import asyncio

        from workers.runners.chat.http import make_client
        from workers.runners.chat.model_factory import make_model
        from workers.runners.secret_masking import Secrets

        names = PROVIDERS[name].names
        values = dict.fromkeys(PROVIDERS[name].keys, "key-0123456789")
        values |= {"AZURE_OPENAI_ENDPOINT": "https://x.example", "OPENAI_API_VERSION": "2024-12-01"}
        values |= {"OLLAMA_BASE_URL": "http://x.example/v1", "VLLM_BASE_URL": "http://x.example/v1"}
        call = ChatCall(f"{name}:a/m", "x")

        async def make() -> str:
            async with make_client() as client:
                model = make_model(call, find_access(call, Secrets(names, values)), client)
                created: Any = model.client  # type: ignore[attr-defined]
                return str(created._api_client.api_key if name == "google" else created.api_key)

        assert asyncio.run(make()) == "key-0123456789"

    def test_to_an_address_of_the_workers_goes_the_workers_key(self, provide, monkeypatch) -> None:
        assert self.sent(provide, monkeypatch)["authorization"] == f"Bearer {self.KEY}"

    def test_to_an_address_of_the_plans_goes_only_what_the_plan_names(self, provide) -> None:
        assert self.KEY not in str(self.sent(provide))
        assert self.sent(provide, secrets=["TEAM_KEY"])["authorization"] == "Bearer team-0123456789"

    def test_so_it_is_with_other_providers(self, provide) -> None:
        assert self.KEY not in str(self.sent(provide, chat="anthropic:claude-x"))
        headers = self.sent(provide, chat="anthropic:claude-x", secrets=["TEAM_KEY"])

        assert "team-0123456789" in (headers.get("authorization", "") + headers.get("x-api-key", ""))
        assert self.KEY not in str(headers)

    def test_without_a_key_it_is_refused_by_name(self, bench: Bench, monkeypatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        result = bench.run({"chat": "openai:m", "prompt": "x"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "the worker's environment has no OPENAI_API_KEY" in result.error
        assert "no NOWHERE" in (bench.run({"chat": "openai:m", "prompt": "x", "secrets": ["NOWHERE"]}).error or "")

    def test_their_values_are_kept_nowhere(self, provide) -> None:
        with provide("It is team-0123456789") as provider:
            result = provider.run(secrets=["TEAM_KEY"])
            report = provider.told(SAID)
        with provide(ToolUse("final_result", {"team-0123456789": ["team-0123456789"]})) as provider:
            formed = provider.run(secrets=["TEAM_KEY"], schema={"type": "object"})

        assert (result.output, report) == ("It is ***", [{"text": "It is ***"}])
        assert formed.output == {"***": ["***"]}

    def test_a_price_that_the_provider_tells_is_the_price(self) -> None:
        from pydantic_ai.messages import ModelResponse
        from pydantic_ai.usage import RequestUsage

        from workers.runners.agents.base import Transcript
        from workers.runners.chat.conversation import ChatUsage

        transcript = Transcript(lambda *_: None)
        spending = ChatUsage(transcript, provider="openrouter", model="m")
        usage = RequestUsage(input_tokens=1, output_tokens=1)

        spending.add(ModelResponse([], usage=usage, model_name="m", provider_details={"cost": 0.00125}))
        assert transcript.usage["m"].cost_usd == Decimal("0.00125")
        spending.add(ModelResponse([], usage=usage, model_name="m"))
        assert transcript.usage["m"].cost_usd is None
