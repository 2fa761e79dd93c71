"""Agents that look at others' tasks: what comes of an assessment, of an analysis, of an answer to a question.

A model that answers what cannot be used is asked once more; then the task goes on without. Every decision is an event
of the task that it was made by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.agents import review_answers
from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.agents.review_answers import AGAIN, DONE, Analysis, Part
from coordination.domain.jobs.templates import literal
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWER, ASSESS, WORK
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Discovered, Outcome
from coordination.domain.tasks.events import EventType
from workers.runners.base import Control

ROUNDS = 2
"""How often an analysis may send a task back."""

_ASKED_AGAIN = "asked_again"
_SPLIT = "split"
_ROUNDS = "rounds_of_work"


def role_of(claim: Claim) -> Mapping[str, Any]:
    """What the system made the task for; empty for a task of a plan's author."""
    role = claim.options.get("role", {})
    return role if isinstance(role, Mapping) else {}


def before(claim: Claim, control: Control) -> AttemptEnd | None:
    """An end instead of a beginning: nothing was done to judge, or what an assessment split has to come first."""
    role = role_of(claim)
    if ANALYZE in role and not any(need["state"] == "completed" for need in claim.needs.values()):
        return AttemptEnd(Outcome.FAILED, error="the work ended without success", retryable=False, began=False)
    if WORK not in role or claim.carried.get(_SPLIT):
        return None
    found = claim.needs.get(f"{role[WORK]}/{ASSESS}", {}).get("output")
    if not isinstance(found, Mapping) or not found.get("subtasks"):
        return None
    try:
        parts = review_answers.read_assessment(found).subtasks
    except Refused:  # a person may have forced the assessment's output
        return None
    discovered = tuple(_discovered(part, claim.key, claim.work, first=True) for part in parts)
    _tell(control, {"decision": "split", "into": [str(found.task["key"]) for found in discovered]})
    return AttemptEnd(Outcome.DEFERRED, discovered=discovered, carry={_SPLIT: True}, began=False)


def after(claim: Claim, result: AttemptEnd, control: Control) -> AttemptEnd:
    """*result* as the role of its task reads it."""
    role = role_of(claim)
    if ASSESS in role:
        return _assessed(claim, result, control)
    if ANALYZE in role:
        return _analyzed(claim, role, result, control)
    if ANSWER in role:
        return _answered(claim, result, control)
    return result


def _assessed(claim: Claim, result: AttemptEnd, control: Control) -> AttemptEnd:
    if result.outcome is not Outcome.COMPLETED:
        return _without(claim, result, {"unusable": result.error}, control)
    try:
        assessment = review_answers.read_assessment(result.output)
    except Refused as refused:
        return _again(claim, result, refused, {"unusable": refused.message}, control)
    told = assessment.to_json()
    keys = [part.key for part in assessment.subtasks]
    _tell(control, {"decision": "assessed", "strategy": assessment.strategy, "subtasks": keys})
    return replace(result, output=told)


def _answered(claim: Claim, result: AttemptEnd, control: Control) -> AttemptEnd:
    """Who asked gets the answer when this is stored; without one the question waits for a person."""
    if result.outcome is not Outcome.COMPLETED:
        return _without(claim, result, {"cannot": f"{claim.key}: {result.error}"}, control)
    try:
        answer = review_answers.read_answer(result.output)
    except Refused as refused:
        return _again(claim, result, refused, {"cannot": f"its answer cannot be used: {refused.message}"}, control)
    return replace(result, output=answer.to_json())


def _analyzed(claim: Claim, role: Mapping[str, Any], result: AttemptEnd, control: Control) -> AttemptEnd:
    key, done = str(role[ANALYZE]), _latest(claim, str(role[ANALYZE]))
    if result.outcome is not Outcome.COMPLETED:
        return _without(claim, result, done, control)
    try:
        analysis = review_answers.read_analysis(result.output)
    except Refused as refused:
        return _again(claim, result, refused, done, control)
    _tell(control, {"decision": analysis.verdict, "why": analysis.why})
    follow_ups = tuple(_discovered(part, key, role["run"], first=False) for part in analysis.follow_ups)
    result = replace(result, output=done, discovered=(*result.discovered, *follow_ups))
    if analysis.verdict == DONE:
        return result
    rounds = int(claim.carried.get(_ROUNDS, 0))
    if analysis.verdict == AGAIN and rounds < ROUNDS:
        return _sent_back(key, role["run"], analysis, rounds + 1, result)
    why = f"not done after {rounds + 1} rounds" if analysis.verdict == AGAIN else analysis.verdict
    return replace(result, outcome=Outcome.FAILED, error=f"{why}: {analysis.why}", retryable=False)


def _latest(claim: Claim, key: str) -> Any:
    """What the last round of work gave."""
    rounds = int(claim.carried.get(_ROUNDS, 0))
    last = f"{key}/{WORK}.{rounds + 1}" if rounds else f"{key}/{WORK}"
    return claim.needs.get(last, {}).get("output")


def _sent_back(key: str, run: Mapping[str, Any], analysis: Analysis, rounds: int, result: AttemptEnd) -> AttemptEnd:
    missing = f"{run['prompt']}\n\n{literal('It was done once, and is not done: ' + analysis.why)}"
    task = {
        "key": f"{key}/{WORK}.{rounds + 1}",
        "title": f"{key}, round {rounds + 1}",
        "run": {**run, "prompt": missing},
        "supervised": False,
    }
    discovered = (*result.discovered, Discovered(task, first=True, by_system=True))
    carry = {**result.carry, _ROUNDS: rounds, FEEDBACK: None, _ASKED_AGAIN: None}
    return replace(result, outcome=Outcome.DEFERRED, discovered=discovered, carry=carry)


def _again(claim: Claim, result: AttemptEnd, refused: Refused, instead: Any, control: Control) -> AttemptEnd:
    """What it answered cannot be used: it is asked once more."""
    if claim.carried.get(_ASKED_AGAIN):
        return _without(claim, replace(result, outcome=Outcome.FAILED, error=refused.message), instead, control)
    carry = {**result.carry, _ASKED_AGAIN: True, FEEDBACK: refused.message}
    return replace(result, outcome=Outcome.DEFERRED, error=f"its answer cannot be used: {refused.message}", carry=carry)


def _without(claim: Claim, result: AttemptEnd, instead: Any, control: Control) -> AttemptEnd:
    """The supervisor has failed: the task goes on without it, once no other attempt may follow."""
    if result.outcome not in (Outcome.FAILED, Outcome.TIMED_OUT):
        return result
    if result.retryable and claim.failures + 1 < claim.max_attempts and not claim.carried.get(_ASKED_AGAIN):
        return result
    _tell(control, {"decision": "none", "why": result.error or "no answer"})
    return replace(result, outcome=Outcome.COMPLETED, output=instead, error=None)


def _discovered(part: Part, of: str, run: Mapping[str, Any], *, first: bool) -> Discovered:
    task: dict[str, Any] = {
        "key": _key(of, part.key),
        "title": part.title,
        "run": {**run, "prompt": literal(part.prompt)},
        "needs": [_key(of, need) for need in part.needs],
        "supervised": not first,  # a part of a supervised task is judged with it
    }
    return Discovered(task, first=first, by_system=True)


def _key(of: str, key: str) -> str:
    """A key below *of* that is not one of the system's own there."""
    return f"{of}/{key}" if not key.startswith((ASSESS, WORK, ANSWER)) else f"{of}/part-{key}"


def _tell(control: Control, payload: Mapping[str, Any]) -> None:
    control.event(EventType.PROGRESS, dict(payload))
