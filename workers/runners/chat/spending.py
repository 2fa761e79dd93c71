"""What a conversation used, step by step, as one record of usage for each model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage

from coordination.domain.money.pricing import ASKED_OF
from coordination.domain.tasks.attempts import Usage
from workers.runners.agents.base import Transcript, tokens
from workers.runners.output import clean_text


class ChatUsage:
    """Adds up; what was used so far stands in the transcript after every step, so that a stop loses nothing."""

    def __init__(self, told: Transcript, *, provider: str, model: str) -> None:
        self._told = told
        self._provider = provider
        self._model = model
        self._used: dict[str, RequestUsage] = {}
        self._cost: dict[str, Decimal | None] = {}

    def add(self, response: ModelResponse) -> None:
        """One call of the model, be it only the beginning of its answer."""
        model = clean_text(response.model_name or self._model)[:200]
        usage = response.usage
        if not usage.input_tokens and not usage.output_tokens and not usage.unmeasured_requests:
            # It was stopped, or says nothing of usage: a call of which nothing is known is not a free one.
            usage = usage + RequestUsage(unmeasured_requests=1)
        cost = _cost(response)
        before = self._cost.get(model, Decimal(0))
        self._used[model] = self._used.get(model, RequestUsage()) + usage
        self._cost[model] = None if cost is None or before is None else before + cost
        self._told.spent(model, self._record(model))

    def _record(self, model: str) -> Usage:
        used = self._used[model]
        extra: dict[str, Any] = {
            "provider": self._provider,
            "reasoning_output_tokens": used.output_reasoning_tokens,
            "cache_write_input_tokens": used.cache_write_tokens,
            "unmeasured_requests": used.unmeasured_requests,
        }
        counted = tokens(
            model,
            read=used.input_tokens,
            written=used.output_tokens,
            cached=used.cache_read_tokens,
            cost=self._cost[model],
        ) or Usage(model, total_tokens=0)
        counted.extra.update({name: value for name, value in extra.items() if value})
        if self._provider not in _MAKERS:
            counted.extra[ASKED_OF] = self._provider
        return counted


_MAKERS = ("openai", "openai-chat", "openai-responses", "anthropic", "google", "azure")
"""Providers whose answers name their own models as those are called everywhere. (Azure's name those of OpenAI.)"""


def _cost(response: ModelResponse) -> Decimal | None:
    """Dollars as the provider says, or None: what a list of prices would say is not asked here."""
    if response.usage.cost is not None:
        return response.usage.cost
    said = (response.provider_details or {}).get("cost")
    return Decimal(repr(said)) if isinstance(said, int | float) and not isinstance(said, bool) and said >= 0 else None
