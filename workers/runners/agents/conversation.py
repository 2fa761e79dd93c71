"""The conversation that attempts of an agent share by its session id, and whether an attempt can resume it.

A session exists on the host where the agent ran. It is resumed after an interruption (a question, tasks that had to run
first, a failed gate, a lost worker), but not after a failure of the agent, which the conversation may have caused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from coordination.base.host import host
from coordination.domain.jobs import AgentCall
from coordination.domain.tasks.attempts import CONVERSATION_KEY, AttemptEnd, Claim, Outcome, Usage
from workers.runners.agents.base import Adapter

# The id comes from the agent's output and becomes an argument of its program, so it must not look like an option.
_SESSION = re.compile(r"[!-,.-~][!-~]{0,199}")
_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens")


class AgentConversation:
    """One attempt's part of a conversation. ``session``: the one to resume, or None; ``resumes``: supports resuming."""

    def __init__(self, claim: Claim, call: AgentCall, adapter: Adapter) -> None:
        self._call = call
        self._adapter = adapter
        self.resumes = _resumes(call, adapter)
        self._before = _carried(claim, call, adapter)
        session = self._before.get("session")
        self.session = session if isinstance(session, str) else None
        self._turn = 1 + int(self._before.get("turn", 0))

    def note(self, session: str, usage: Iterable[Usage] = ()) -> dict[str, Any]:
        """Return what the task carries to its next attempt."""
        turn = self._turn if session == self.session else 1
        state = {"agent": self._call.agent, "session": session, "host": host(), "turn": turn}
        counted = {each.model: {name: getattr(each, name) for name in _COUNTS} for each in usage}
        return {CONVERSATION_KEY: {**state, "counted": counted} if counted and not self._adapter.counts_anew else state}

    def new_usage(self, usage: Iterable[Usage], session: str | None) -> tuple[Usage, ...]:
        """Return the part of *usage* that no earlier attempt has recorded.

        *session* may be a new one: codex starts one silently when it does not know the session to resume.
        """
        before = self._before.get("counted", {})
        if session != self.session or self._adapter.counts_anew or not isinstance(before, Mapping):
            return tuple(usage)
        return tuple(new for each in usage if (new := _subtract(each, before.get(each.model, {}))) is not None)

    def end(self, result: AttemptEnd, session: str | None, usage: Iterable[Usage]) -> AttemptEnd:
        """Return *result* with the conversation to carry on. A failed resumption defers the attempt."""
        if result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            if result.outcome is Outcome.FAILED and self.session is not None and not result.usage:
                error = f"its earlier conversation could not be resumed: {result.error}"
                result = replace(result, outcome=Outcome.DEFERRED, error=error, retryable=True)
            return replace(result, carry_over={**result.carry_over, CONVERSATION_KEY: None})
        if session is None or not self.resumes:
            return result
        return replace(result, carry_over={**result.carry_over, **self.note(session, usage)})


def resumes_session(claim: Claim, call: AgentCall, adapter: Adapter) -> bool:
    """Return whether the attempt resumes an earlier conversation."""
    return isinstance(_carried(claim, call, adapter).get("session"), str)


def _carried(claim: Claim, call: AgentCall, adapter: Adapter) -> Mapping[str, Any]:
    carried = claim.carried_over.get(CONVERSATION_KEY)
    if not _resumes(call, adapter) or not isinstance(carried, Mapping):
        return {}
    if (carried.get("agent"), carried.get("host")) != (call.agent, host()):
        return {}
    session = carried.get("session")
    return carried if isinstance(session, str) and _SESSION.fullmatch(session) else {}


def _resumes(call: AgentCall, adapter: Adapter) -> bool:
    return adapter.resumes or bool(call.resume)


def _subtract(usage: Usage, before: Mapping[str, Any]) -> Usage | None:
    """Return *usage* without what was counted *before*; None when nothing remains."""
    rest = {name: max(0, getattr(usage, name) - int(before.get(name, 0))) for name in _COUNTS}
    if not any(rest.values()):
        return None
    total = rest["input_tokens"] + rest["output_tokens"]
    return replace(usage, **rest, total_tokens=total, extra={})
