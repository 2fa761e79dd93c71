"""The review loop: decisions that follow from assessments, analyses and answers to questions by other agents.

An agent whose answer is unusable gets one more attempt; then the task continues without it. Pure: each decision
includes the payload of its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.agents import review_answers
from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.agents.review_answers import AGAIN, DONE, Analysis, ProposedTask
from coordination.domain.jobs.templates import escape_template
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWER, ASSESS, WORK
from coordination.domain.tasks.attempts import AttemptEnd, Claim, DiscoveredTask, Outcome

ROUNDS = 2
"""The most times that an analysis may send a task back."""

_IS_SECOND_TRY = "asked_again"
_SPLIT = "split"
_ROUNDS = "rounds_of_work"


@dataclass(frozen=True, slots=True)
class Review:
    """The end of an attempt after its review. ``decision``: the payload of the event, if there is one."""

    result: AttemptEnd
    decision: dict[str, Any] | None = None


def role_of(claim: Claim) -> Mapping[str, Any]:
    """Return the role that the system gave the task; empty for a task of a plan's author."""
    role = claim.options.get("role", {})
    return role if isinstance(role, Mapping) else {}


def before_job(claim: Claim) -> Review | None:
    """Return an end without a job: no work to analyze, or subtasks that come first. Return None if the job must run."""
    role = role_of(claim)
    if ANALYZE in role and not any(need["state"] == "completed" for need in claim.needs.values()):
        error = "the work ended without success"
        return Review(AttemptEnd(Outcome.FAILED, error=error, retryable=False, job_started=False))
    if WORK not in role or claim.carried_over.get(_SPLIT):
        return None
    output = claim.needs.get(f"{role[WORK]}/{ASSESS}", {}).get("output")
    if not isinstance(output, Mapping) or not output.get("subtasks"):
        return None
    try:
        parts = review_answers.read_assessment(output).subtasks
    except Refused:  # a person may have forced the assessment's output
        return None
    discovered = tuple(_discovered_task(part, claim.key, claim.work, first=True) for part in parts)
    decision = {"decision": "split", "into": [str(subtask.task["key"]) for subtask in discovered]}
    return Review(
        AttemptEnd(Outcome.DEFERRED, discovered=discovered, carry_over={_SPLIT: True}, job_started=False), decision
    )


def review(claim: Claim, result: AttemptEnd) -> Review:
    """Return the end of a reviewing task whose job ended with *result*, by its role."""
    role = role_of(claim)
    if ASSESS in role:
        return _end_assessment(claim, result)
    if ANALYZE in role:
        return _end_analysis(claim, role, result)
    if ANSWER in role:
        return _end_answer(claim, result)
    return Review(result)


def _end_assessment(claim: Claim, result: AttemptEnd) -> Review:
    if result.outcome is not Outcome.COMPLETED:
        return _continue_without(claim, result, {"unusable": result.error})
    try:
        assessment = review_answers.read_assessment(result.output)
    except Refused as refused:
        return _try_again(claim, result, refused, {"unusable": refused.message})
    keys = [part.key for part in assessment.subtasks]
    decision = {"decision": "assessed", "strategy": assessment.strategy, "subtasks": keys}
    return Review(replace(result, output=assessment.to_json()), decision)


def _end_answer(claim: Claim, result: AttemptEnd) -> Review:
    """Store the answer as the output, which the asking task gets. Without an answer the question waits for a person."""
    if result.outcome is not Outcome.COMPLETED:
        return _continue_without(claim, result, {"cannot": f"{claim.key}: {result.error}"})
    try:
        answer = review_answers.read_answer(result.output)
    except Refused as refused:
        return _try_again(claim, result, refused, {"cannot": f"its answer cannot be used: {refused.message}"})
    return Review(replace(result, output=answer.to_json()))


def _end_analysis(claim: Claim, role: Mapping[str, Any], result: AttemptEnd) -> Review:
    key, done = str(role[ANALYZE]), _latest(claim, str(role[ANALYZE]))
    if result.outcome is not Outcome.COMPLETED:
        return _continue_without(claim, result, done)
    try:
        analysis = review_answers.read_analysis(result.output)
    except Refused as refused:
        return _try_again(claim, result, refused, done)
    decision = {"decision": analysis.verdict, "why": analysis.why}
    follow_ups = tuple(_discovered_task(part, key, role["run"], first=False) for part in analysis.follow_ups)
    result = replace(result, output=done, discovered=(*result.discovered, *follow_ups))
    if analysis.verdict == DONE:
        return Review(result, decision)
    rounds = int(claim.carried_over.get(_ROUNDS, 0))
    if analysis.verdict == AGAIN and rounds < ROUNDS:
        return Review(_send_back(key, role["run"], analysis, rounds + 1, result), decision)
    why = f"not done after {rounds + 1} rounds" if analysis.verdict == AGAIN else analysis.verdict
    failed = replace(result, outcome=Outcome.FAILED, error=f"{why}: {analysis.why}", retryable=False)
    return Review(failed, decision)


def _latest(claim: Claim, key: str) -> Any:
    """Return the output of the last round of work."""
    rounds = int(claim.carried_over.get(_ROUNDS, 0))
    last = f"{key}/{WORK}.{rounds + 1}" if rounds else f"{key}/{WORK}"
    return claim.needs.get(last, {}).get("output")


def _send_back(key: str, run: Mapping[str, Any], analysis: Analysis, rounds: int, result: AttemptEnd) -> AttemptEnd:
    prompt = f"{run['prompt']}\n\n{escape_template('An earlier round is not sufficient: ' + analysis.why)}"
    task = {
        "key": f"{key}/{WORK}.{rounds + 1}",
        "title": f"{key}, round {rounds + 1}",
        "run": {**run, "prompt": prompt},
        "supervised": False,
    }
    discovered = (*result.discovered, DiscoveredTask(task, blocks_finder=True, by_system=True))
    carry = {**result.carry_over, _ROUNDS: rounds, FEEDBACK: None, _IS_SECOND_TRY: None}
    return replace(result, outcome=Outcome.DEFERRED, discovered=discovered, carry_over=carry)


def _try_again(claim: Claim, result: AttemptEnd, refused: Refused, instead: Any) -> Review:
    """Request another answer, or continue without one after the second unusable one."""
    if claim.carried_over.get(_IS_SECOND_TRY):
        return _continue_without(claim, replace(result, outcome=Outcome.FAILED, error=refused.message), instead)
    carry = {**result.carry_over, _IS_SECOND_TRY: True, FEEDBACK: refused.message}
    error = f"its answer cannot be used: {refused.message}"
    return Review(replace(result, outcome=Outcome.DEFERRED, error=error, carry_over=carry))


def _continue_without(claim: Claim, result: AttemptEnd, instead: Any) -> Review:
    """Complete a failed review with the output *instead*, once no other attempt may follow."""
    if result.outcome not in (Outcome.FAILED, Outcome.TIMED_OUT):
        return Review(result)
    if result.retryable and claim.failures + 1 < claim.max_attempts and not claim.carried_over.get(_IS_SECOND_TRY):
        return Review(result)
    decision = {"decision": "none", "why": result.error or "no answer"}
    return Review(replace(result, outcome=Outcome.COMPLETED, output=instead, error=None), decision)


def _discovered_task(part: ProposedTask, of: str, run: Mapping[str, Any], *, first: bool) -> DiscoveredTask:
    task: dict[str, Any] = {
        "key": _key(of, part.key),
        "title": part.title,
        "run": {**run, "prompt": escape_template(part.prompt)},
        "needs": [_key(of, need) for need in part.needs],
        "supervised": not first,  # a subtask is reviewed together with its task
    }
    return DiscoveredTask(task, blocks_finder=first, by_system=True)


def _key(of: str, key: str) -> str:
    """Return a key below *of* that differs from the system's keys there."""
    return f"{of}/{key}" if not key.startswith((ASSESS, WORK, ANSWER)) else f"{of}/part-{key}"
