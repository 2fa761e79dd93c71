"""The end of one attempt with the decision about its task, and the event that records it."""

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
_PLAIN = {"outcome": Outcome.COMPLETED.value}  # one shared object, so that it is validated once


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt with its end and the decision about its task: everything that a repeated commit must not change.

    ``worker_claim``: the claim of its worker; None when a rescue or an operator ends it. ``costs`` are not in the
    ledger yet, ``recorded_costs`` are. ``losses``: the task's new loss count after a lost attempt; None: unchanged.
    ``has_reservation``: money may be reserved for it. ``event_fields``: further fields of its event.
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
    carried_over: Mapping[str, Any] | None = None
    has_reservation: bool = False
    event_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fence(self) -> tuple[str, int]:
        """Return the task id and the attempt number, which every write of the attempt must match."""
        return self.task_id, self.attempt

    @property
    def claim(self) -> Claim:
        """Return the claim of the worker that reports this end."""
        assert self.worker_claim is not None  # noqa: S101 - only workers read it
        return self.worker_claim

    @property
    def details(self) -> dict[str, Any]:
        """Return the details to store: the provider limit that was hit, and the changes of an agent."""
        limit = {} if self.end.limit is None else {"limit": self.end.limit.to_json()}
        return limit if self.end.effect is None else limit | {"effect": self.end.effect.to_json()}

    def ends_task(self) -> bool:
        """Return whether no other attempt of the task follows."""
        return isinstance(self.decision, Complete | GiveUp)


def build_end_payload(ended: EndedAttempt) -> Mapping[str, Any]:
    """Return the payload of the event of an end."""
    end, decision = ended.end, ended.decision
    fields = {**ended.event_fields, **ended.details}
    if isinstance(decision, Complete) and not fields and not end.error and end.exit_code is None:
        return _PLAIN
    payload: dict[str, Any] = {**fields, "outcome": end.outcome.value}
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


def build_end_event(project_id: str, ended: EndedAttempt, *, actor: str | None) -> NewEvent:
    """Return the event of an end."""
    payload = build_end_payload(ended)
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
