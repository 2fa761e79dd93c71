"""What the story of a task says of the end of an attempt."""

from __future__ import annotations

from typing import Any

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.retry import AskPerson, Complete, GiveUp, RetryAfter, StayCanceled, Wait
from coordination.services.attempts.records import Ending

_PLAIN = {"outcome": Outcome.COMPLETED.value}  # one object for all, so that it is looked at once


def payload_of(ending: Ending) -> dict[str, Any]:
    """What the story of its task says of an end."""
    more = {**ending.payload, **ending.details}
    plain = ending.outcome is Outcome.COMPLETED and isinstance(ending.decision, Complete) and not more
    if plain and not ending.error and ending.exit_code is None and ending.question is None:
        return _PLAIN
    payload: dict[str, Any] = {**more, "outcome": ending.outcome.value}
    if ending.error:
        payload["error"] = ending.error[:2000]
    if ending.exit_code is not None:
        payload["exit_code"] = ending.exit_code
    if isinstance(ending.decision, RetryAfter) and ending.decision.wait:
        payload["wait_seconds"] = round(ending.decision.wait.total_seconds(), 3)
    if isinstance(ending.decision, GiveUp | AskPerson | Wait):
        payload["why"] = ending.decision.why
    if isinstance(ending.decision, Wait):
        payload["reasons"] = ending.decision.reasons.names()
    if ending.question is not None:
        payload["question"] = ending.question[:2000]
    return payload


def event_of(project_id: str, ending: Ending) -> dict[str, Any]:
    """The event of an end."""
    return {
        "project_id": project_id,
        "run_id": ending.run_id,
        "task_id": ending.task_id,
        "attempt": ending.attempt,
        "type": _event_type(ending),
        "actor": ending.actor,
        "payload": payload_of(ending),
    }


def _event_type(ending: Ending) -> EventType:
    match ending.decision:
        case Complete():
            return EventType.COMPLETED
        case GiveUp():
            return EventType.FAILED
        case AskPerson() | Wait():
            return EventType.BLOCKED
        case StayCanceled():
            return EventType.HANDED_BACK
        case RetryAfter():
            if ending.outcome is Outcome.LOST:
                return EventType.HEARTBEAT_LOST
            return EventType.HANDED_BACK if ending.outcome is Outcome.HANDED_BACK else EventType.RETRIED
