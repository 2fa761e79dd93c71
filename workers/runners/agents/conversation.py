"""The conversation that an agent's attempts share: kept under its session's id, taken up again where it can be.

A session lives on the machine on which the agent ran. It is taken up after a pause of the task (a question, work that
had to come first, a gate that failed, a worker that was lost), not after a failure of the agent's own: that one might
lie in what was said.
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

# It becomes an argument of the agent's program, and whoever can write to its output can say it: it is no option.
_SESSION = re.compile(r"[!-,.-~][!-~]{0,199}")
_COUNTS = ("input_tokens", "output_tokens", "cached_input_tokens")


class AgentConversation:
    """One attempt's part of it. ``session``: the one to take up again, or None; ``resumes``: whether it could be."""

    def __init__(self, claim: Claim, call: AgentCall, adapter: Adapter) -> None:
        self._call = call
        self._adapter = adapter
        self.resumes = _resumes(call, adapter)
        self._before = _carried(claim, call, adapter)
        session = self._before.get("session")
        self.session = session if isinstance(session, str) else None
        self._turn = 1 + int(self._before.get("turn", 0))

    def note(self, session: str, usage: Iterable[Usage] = ()) -> dict[str, Any]:
        """What the task carries on."""
        turn = self._turn if session == self.session else 1
        kept = {"agent": self._call.agent, "session": session, "host": host(), "turn": turn}
        counted = {each.model: {name: getattr(each, name) for name in _COUNTS} for each in usage}
        return {CONVERSATION_KEY: {**kept, "counted": counted} if counted and not self._adapter.counts_anew else kept}

    def new(self, usage: Iterable[Usage], session: str | None) -> tuple[Usage, ...]:
        """What of the *usage* that the agent told of *session* was not recorded by an earlier attempt.

        It may have begun another session: codex does so without a word where it does not know the one it is given.
        """
        before = self._before.get("counted", {})
        if session != self.session or self._adapter.counts_anew or not isinstance(before, Mapping):
            return tuple(usage)
        return tuple(less for each in usage if (less := _less(each, before.get(each.model, {}))) is not None)

    def end(self, result: AttemptEnd, session: str | None, told: Iterable[Usage]) -> AttemptEnd:
        """*result* with what the next attempt is to know. One that could not be taken up again is charged to nobody."""
        if result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
            if result.outcome is Outcome.FAILED and self.session is not None and not result.usage:
                error = f"its earlier conversation could not be taken up again: {result.error}"
                result = replace(result, outcome=Outcome.DEFERRED, error=error, retryable=True)
            return replace(result, carry_over={**result.carry_over, CONVERSATION_KEY: None})
        if session is None or not self.resumes:
            return result
        return replace(result, carry_over={**result.carry_over, **self.note(session, told)})


def taken_up(claim: Claim, call: AgentCall, adapter: Adapter) -> bool:
    """Whether this attempt goes on with an earlier conversation."""
    return isinstance(_carried(claim, call, adapter).get("session"), str)


def _carried(claim: Claim, call: AgentCall, adapter: Adapter) -> Mapping[str, Any]:
    found = claim.carried_over.get(CONVERSATION_KEY)
    if not _resumes(call, adapter) or not isinstance(found, Mapping):
        return {}
    if (found.get("agent"), found.get("host")) != (call.agent, host()):
        return {}
    session = found.get("session")
    return found if isinstance(session, str) and _SESSION.fullmatch(session) else {}


def _resumes(call: AgentCall, adapter: Adapter) -> bool:
    return adapter.resumes or bool(call.resume)


def _less(usage: Usage, before: Mapping[str, Any]) -> Usage | None:
    """*usage* without what was counted *before*; None when nothing is left."""
    left = {name: max(0, getattr(usage, name) - int(before.get(name, 0))) for name in _COUNTS}
    if not any(left.values()):
        return None
    total = left["input_tokens"] + left["output_tokens"]
    return replace(usage, **left, total_tokens=total, extra={})
