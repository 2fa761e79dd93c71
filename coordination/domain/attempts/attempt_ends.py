"""The end of one attempt with what follows from it, and the event that its task's story gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from coordination.domain.money.costs import CostRecord
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import AskPerson, Complete, Decision, GiveUp, RetryAfter, StayCanceled, Wait

_LONGEST_TEXT = 2000
_PLAIN = {"outcome": Outcome.COMPLETED.value}  # one object for all, so that it is checked once


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt with its end and the decision about its task: all that must not change when a commit is repeated.

    ``worker_claim``: what its worker held; None when others end it (a rescue, an operator). ``costs``: what it spent
    that is not in the ledger yet; ``recorded_costs``: what is. ``losses``: of its task from now on, when this attempt
    was lost; None: as before. ``reserved``: money may be reserved for it. ``more``: further fields of its event.
    """

    task_id: str
    attempt: int
    run_id: str
    key: str
    end: AttemptEnd
    decision: Decision
    worker_claim: Claim | None = None
    took: timedelta = timedelta(0)
    costs: tuple[CostRecord, ...] = ()
    recorded_costs: tuple[CostRecord, ...] = ()
    losses: int | None = None
    slots: tuple[str, ...] = ()
    carried: Mapping[str, Any] | None = None
    reserved: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fence(self) -> tuple[str, int]:
        """Return what the attempt must quote: task and number."""
        return self.task_id, self.attempt

    @property
    def claim(self) -> Claim:
        """Return the claim of the worker that reports this end."""
        assert self.worker_claim is not None  # noqa: S101 - workers end what they claimed
        return self.worker_claim

    @property
    def details(self) -> dict[str, Any]:
        """Return what is stored of the end besides: the limit that it met, and what an agent changed."""
        limit = {} if self.end.limit is None else {"limit": self.end.limit.to_json()}
        return limit if self.end.effect is None else limit | {"effect": self.end.effect.to_json()}

    def ends_task(self) -> bool:
        """Return whether no other attempt of the task follows."""
        return isinstance(self.decision, Complete | GiveUp)


def event_payload(ended: EndedAttempt) -> Mapping[str, Any]:
    """Return the payload of the event of an end."""
    end, decision = ended.end, ended.decision
    more = {**ended.more, **ended.details}
    if isinstance(decision, Complete) and not more and not end.error and end.exit_code is None:
        return _PLAIN
    payload: dict[str, Any] = {**more, "outcome": end.outcome.value}
    if end.error:
        payload["error"] = end.error[:_LONGEST_TEXT]
    if end.exit_code is not None:
        payload["exit_code"] = end.exit_code
    if isinstance(decision, RetryAfter) and decision.wait:
        payload["wait_seconds"] = round(decision.wait.total_seconds(), 3)
    if isinstance(decision, GiveUp | AskPerson | Wait):
        payload["why"] = decision.why
    if isinstance(decision, Wait):
        payload["reasons"] = decision.reasons.names()
    if end.question is not None:
        payload["question"] = end.question[:_LONGEST_TEXT]
    return payload


def event_of(project_id: str, ended: EndedAttempt, *, actor: str | None) -> NewEvent:
    """Return the event of an end."""
    payload = event_payload(ended)
    return NewEvent(_event_type(ended), project_id, ended.run_id, ended.task_id, ended.attempt, actor, payload)


def _event_type(ended: EndedAttempt) -> EventType:
    match ended.decision:
        case Complete():
            return EventType.COMPLETED
        case GiveUp():
            return EventType.FAILED
        case AskPerson() | Wait():
            return EventType.BLOCKED
        case StayCanceled():
            return EventType.HANDED_BACK
        case RetryAfter():
            if ended.end.outcome is Outcome.LOST:
                return EventType.HEARTBEAT_LOST
            return EventType.HANDED_BACK if ended.end.outcome is Outcome.HANDED_BACK else EventType.RETRIED
