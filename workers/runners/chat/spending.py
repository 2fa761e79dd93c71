"""Adds up the usage of a conversation, one record for each model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage

from coordination.domain.money.pricing import PROVIDER
from coordination.domain.tasks.attempts import Usage
from workers.runners.agents.base import Transcript, usage_record
from workers.runners.output import clean_text


class ChatUsage:
    """Adds up usage in the transcript after each step, so that a stop loses nothing."""

    def __init__(self, transcript: Transcript, *, provider: str, model: str) -> None:
        self._transcript = transcript
        self._provider = provider
        self._model = model
        self._used: dict[str, RequestUsage] = {}
        self._cost: dict[str, Decimal | None] = {}

    def add(self, response: ModelResponse) -> None:
        """Add one call of the model, also with a partial answer."""
        model = clean_text(response.model_name or self._model)[:200]
        usage = response.usage
        if not usage.input_tokens and not usage.output_tokens and not usage.unmeasured_requests:
            # A call without usage (stopped, or not reported) is unmeasured, not free.
            usage = usage + RequestUsage(unmeasured_requests=1)
        cost = _cost(response)
        before = self._cost.get(model, Decimal(0))
        self._used[model] = self._used.get(model, RequestUsage()) + usage
        self._cost[model] = None if cost is None or before is None else before + cost
        self._transcript.set_usage(model, self._record(model))

    def _record(self, model: str) -> Usage:
        used = self._used[model]
        extra: dict[str, Any] = {
            "provider": self._provider,
            "reasoning_output_tokens": used.output_reasoning_tokens,
            "cache_write_input_tokens": used.cache_write_tokens,
            "unmeasured_requests": used.unmeasured_requests,
        }
        record = usage_record(
            model,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_tokens=used.cache_read_tokens,
            cost=self._cost[model],
        ) or Usage(model, total_tokens=0)
        record.extra.update({name: value for name, value in extra.items() if value})
        if self._provider not in _MAKERS:
            record.extra[PROVIDER] = self._provider
        return record


_MAKERS = ("openai", "openai-chat", "openai-responses", "anthropic", "google", "azure")
"""Providers that serve their own models under the usual names. (Azure serves those of OpenAI.)"""


def _cost(response: ModelResponse) -> Decimal | None:
    """Return the dollars that the provider reports, or None. Price lists are applied elsewhere."""
    if response.usage.cost is not None:
        return response.usage.cost
    cost = (response.provider_details or {}).get("cost")
    return Decimal(repr(cost)) if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0 else None
