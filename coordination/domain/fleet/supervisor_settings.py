"""A project's settings for its supervisor: the strategy, and the model of its agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt

SUPERVISOR = "supervisor"
"""The key in a project's settings."""

_KEYS = ("strategy", "model")
_LONGEST = 20_000


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """``strategy``: a text in the prompts of its agents. ``model``: for agents without one of their own."""

    strategy: str | None = None
    model: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> SupervisorSettings:
        """Return the supervisor's settings in a project's *settings*."""
        return parse_supervisor_settings(settings.get(SUPERVISOR) or {})

    def run(self, body: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return a supervising agent's job with the supervisor's model, unless it names one or is a chat."""
        if body is None or self.model is None or "agent" not in body or "model" in body:
            return None if body is None else dict(body)
        return {**body, "model": self.model}


def parse_supervisor_settings(value: object) -> SupervisorSettings:
    """Parse the supervisor's settings. Raises Refused when they are invalid."""
    if not isinstance(value, Mapping):
        raise Refused(f"{SUPERVISOR} maps {', '.join(_KEYS)} to texts", field=SUPERVISOR)
    for key, text in value.items():
        if key not in _KEYS:
            hint = did_you_mean(str(key), _KEYS) or f"It may have: {', '.join(_KEYS)}"
            raise Refused(f"{SUPERVISOR} has no {excerpt(key)}", hint=hint, field=f"{SUPERVISOR}.{key}")
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
            raise Refused(
                f"{SUPERVISOR}.{key} must be a text of at most {_LONGEST:,} characters", field=f"{SUPERVISOR}.{key}"
            )
    return SupervisorSettings(value.get("strategy"), value.get("model"))
