"""Finish attempts: what the runners returned becomes state, evidence, costs and released work, in one transaction."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.base.ids import new_id
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import JobSample, asks_a_model, history_key, sample_of
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWER, ANSWERER, ASSESS, SUPERVISION, answering
from coordination.domain.tasks.attempts import Claim, Outcome, Result, Spender, Usage
from coordination.domain.tasks.retry import Backoff, Complete, Decision, RetryAfter, Wait, decide, wait_of, wait_until
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.agents import agents
from coordination.services.attempts.end import close_ended_runs, end_attempts
from coordination.services.attempts.records import Ended, Ending
from coordination.services.money import ledger
from coordination.services.plans.add_discovered_tasks import grow
from coordination.services.tasks import dispatch_window, questions
from coordination.store.queries.forecast import job_history
from coordination.store.queries.money import budget_usage
from coordination.store.queries.tasks import questions as question_rows
from coordination.store.queries.tasks import ready, runs, slots, tasks
from coordination.store.queries.tasks.ready import ReadyTask

_JITTER = 0.25
_LARGEST_SHARE = 64

MOST_ANSWERED = 5
"""How many questions of one task agents answer; a person looks at what asks more."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What the caller does after its commit: ring for ``ring``; look again at ``maybe_done_runs``.

    ``unfilled``: more may be ready than those who go on take, and the project's window was left for the caller to fill.

    ``shares``: claims of short tasks for those who go on, a message's worth each. ``room``: reserved money
    came back, and tasks of the project wait for money.
    """

    ended: Ended
    ring: list[ReadyTask]
    retry_in: dict[str, timedelta]
    shares: list[list[Claim]] = field(default_factory=list)
    room: bool = False
    unfilled: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """One ended attempt, with everything decided that must not change when the transaction is repeated."""

    claim: Claim
    result: Result
    decision: Decision
    costs: tuple[CostRecord, ...]
    took: timedelta = timedelta(0)
    written: tuple[CostRecord, ...] = ()


def decided(
    claim: Claim,
    result: Result,
    *,
    now: datetime,
    took: timedelta = timedelta(0),
    costs: tuple[CostRecord, ...] | None = None,
    written: tuple[CostRecord, ...] = (),
) -> Finish:
    """What follows from *result*; ids of costs are made here, so that repeating the commit bills nothing twice.

    *written*: what it spent and is in the ledger already; *costs*: then the rest of it.
    """
    if costs is None:
        costs = tuple(cost_of(claim, usage, now) for usage in result.usage) if result.usage else ()
    if (waits := wait_of(result)) is not None:
        # It stopped to go on later: that is neither an end nor a failure.
        # What it did before its money was gone is kept; an answer to a question that it did not have yet is none.
        output = result.output if waits.reasons == BlockReason.BUDGET else None
        asked = replace(result, outcome=Outcome.DEFERRED, output=output)
        return Finish(claim, asked, waits, costs, took=took, written=written)
    if result.outcome is Outcome.COMPLETED:  # as nearly all: there is nothing to decide
        return Finish(claim, result, Complete(), costs, took, written)
    failed = result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    decision: Decision = decide(
        result.outcome,
        failures=claim.failures + int(failed),
        losses=claim.losses,
        deferrals=claim.deferrals + int(result.outcome is Outcome.DEFERRED),
        max_attempts=claim.max_attempts,
        repeatable=claim.repeatable,
        backoff=backoff_of(claim.backoff),
        retryable=result.retryable,
        began=result.began,
        killed=result.exit_code is not None and result.exit_code < 0,
    )
    if isinstance(decision, RetryAfter) and decision.wait:
        # Tasks that failed together (a provider that was down) must not come back together.
        wait = decision.wait * (1 + _JITTER * random.random())  # noqa: S311
        decision = RetryAfter(wait)
        if result.not_before is not None:
            named = result.limit is not None and result.limit.resets_at is not None
            decision = wait_until(result.not_before, wait, now=now, backoff=backoff_of(claim.backoff), limit=named)
    return Finish(claim, result, decision, costs, took, written)


def finish_attempts(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    finishes: Sequence[Finish],
    *,
    worker_id: str,
    window: int,
    bundle: Callable[[str], int],
    claim: Callable[[Sequence[str]], list[Claim]] | None = None,
    hungry: int = 0,
    refill: bool = True,
    fill_later: bool = False,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
) -> Finished:
    """End these attempts, all of one project, and choose which ready tasks to ring for.

    *claim* claims tasks in this transaction, without waiting, for *hungry* threads that would go on.
    Without *refill* the project's window is only filled when more became ready than those threads take; *fill_later*:
    not in this transaction, if any of them goes on, so that they need not wait for it. *deferral_limit*: how long a
    task may ask for later before a person must let it go on.
    """
    endings = [_ending(finish, worker_id) for finish in finishes]
    ended = end_attempts(tx, workspace_id, project_id, endings, close_runs=False, deferral_limit=deferral_limit)
    _learn(tx, workspace_id, project_id, finishes, ended)
    room = _settle(tx, workspace_id, project_id, finishes, ended)
    if any(one.result.discovered for one in finishes):
        slots.lock(tx, workspace_id, project_id)  # a claim may follow in here, and these may lock their run
    grown = _grow(tx, workspace_id, finishes, ended)
    waits = {
        ending.task_id: ending.decision.wait
        for ending in endings
        if isinstance(ending.decision, RetryAfter) and ending.task_id in ended.held
    }
    shares: list[list[Claim]] = []
    nothing_left = False
    if hungry and claim:
        shares, nothing_left = _shares(tx, workspace_id, project_id, ended, hungry, bundle, claim)
    taken = sum(map(len, shares))
    ring: list[ReadyTask] = []
    fills = bool(waits or grown or len(ended.freed) > taken or (refill and not nothing_left))
    later = fills and fill_later and taken > 0
    if fills and not later:
        expected = bundle(finishes[0].claim.kind) if finishes else 1
        ring = dispatch_window.fill(tx, workspace_id, project_id, window=window, bundle=bundle, expected=expected)
    close_ended_runs(tx, workspace_id, ended, going_on={one.run_id for share in shares for one in share})
    return Finished(ended, ring, waits, shares, room, later)


def _settle(tx: Connection, workspace_id: str, project_id: str, finishes: Sequence[Finish], ended: Ended) -> bool:
    """Record what was spent, and give back what was reserved and not needed; whether others of the project may go on.

    Money is the exception to the fence: what an attempt spent that lost its task is recorded too, and marked.
    """
    spent: list[CostRecord] = []
    for one in finishes:
        claim = one.claim
        stale = (claim.task_id, claim.attempt) not in ended.fences and claim.task_id not in ended.recorded_before
        spent += [replace(record, stale=stale) for record in one.costs]
    closing = ended.closing
    if not spent and not closing:
        return False
    if spent:
        runs.touch_session(tx, workspace_id, sorted({record.session_id for record in spent if record.session_id}))
    slots.lock(tx, workspace_id, project_id)  # they come before money, and a claim may follow in here
    room = ledger.settle(tx, workspace_id, spent, closing=closing).room
    return room and bool(budget_usage.runs_waiting(tx, workspace_id, project_id, most=1))


def _learn(tx: Connection, workspace_id: str, project_id: str, finishes: Sequence[Finish], ended: Ended) -> None:
    """Keep what these attempts cost and how long they took. Short ones that cost nothing teach nothing."""
    learnt: dict[str, list[JobSample]] = {}
    for one in finishes:
        claim, result = one.claim, one.result
        sample = sample_of(claim.work, result.outcome, one.took, (*one.written, *one.costs)) if result.began else None
        if sample is not None and (claim.task_id, claim.attempt) in ended.fences:
            learnt.setdefault(history_key(claim.work), []).append(sample)
    job_history.learn(tx, workspace_id, project_id, learnt)


def _grow(tx: Connection, workspace_id: str, finishes: Sequence[Finish], ended: Ended) -> int:
    """Keep the questions that were asked, pass on what was answered, and add the tasks that were found.

    How many tasks may be claimed now that could not before.

    What an attempt says that has lost its task counts for nothing.
    """
    ready_now = 0
    desk: agents.AgentLookup | None = None
    for finish in finishes:
        claim, result = finish.claim, finish.result
        if (claim.task_id, claim.attempt) not in ended.fences:
            continue
        if result.question is not None and isinstance(finish.decision, Wait):
            desk = desk or agents.AgentLookup(tx, workspace_id)
            ready_now += _asked(tx, workspace_id, claim, result.question, desk, escalated=result.escalated)
        if ANSWER in (role := claim.options.get("role", {})) and isinstance(finish.decision, Complete):
            ready_now += _answered(tx, workspace_id, claim, role, result.output)
        if result.discovered:
            desk = desk or agents.AgentLookup(tx, workspace_id)
            ready_now += grow(tx, workspace_id, claim.task_id, result.discovered, desk).ready
    return ready_now


def _asked(
    tx: Connection, workspace_id: str, claim: Claim, question: str, desk: agents.AgentLookup, *, escalated: bool
) -> int:
    """Keep what was asked, and let an agent answer where the run has one for that; else it waits for a person.

    What is escalated is for the run's supervisor: the agent that analyses what was done, or else that assesses it.
    """
    question_id = questions.ask(tx, workspace_id, claim, question, escalated=escalated)
    metadata = runs.metadata_of(tx, workspace_id, claim.run_id)
    who = metadata.get(ANSWERER)
    if escalated:
        supervision = metadata.get(SUPERVISION) or {}
        who = supervision.get(ANALYZE) or supervision.get(ASSESS)
    if who is None or ANSWER in claim.options.get("role", {}):
        return 0
    number = len(question_rows.of_task(tx, workspace_id, claim.task_id))
    try:
        if number > MOST_ANSWERED:
            raise Refused(f"agents have answered {MOST_ANSWERED} of its questions already")  # noqa: TRY301 - where the others are caught
        found = answering(claim, who, question, question_id=question_id, task_id=claim.task_id, number=number)
        return grow(tx, workspace_id, claim.task_id, [found], desk).ready
    except Refused as refused:
        task = tasks.get(tx, workspace_id, claim.task_id)
        if task is not None:
            questions.left_to_a_person(tx, workspace_id, task, refused.message, by=f"task:{claim.key}")
        return 0


def _answered(tx: Connection, workspace_id: str, claim: Claim, role: Mapping[str, Any], said: Any) -> int:
    """Give an agent's answer to who asked; nothing happens when somebody else was first."""
    asker = tasks.get(tx, workspace_id, str(role[ANSWER]))
    if asker is None or not isinstance(said, Mapping):
        return 0
    by = f"task:{claim.key}"
    if not isinstance(text := said.get("answer"), str):
        questions.left_to_a_person(tx, workspace_id, asker, str(said.get("cannot")), by=by)
        return 0
    agent = claim.agent or str(claim.work.get("agent") or claim.work.get("chat"))
    try:
        _, ready_now = questions.answer(
            tx, workspace_id, asker, text, by=by, question_id=str(role["question_id"]), agent=agent
        )
    except Refused:
        return 0
    return int(ready_now)


def _shares(  # noqa: PLR0917 - called once, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ended: Ended,
    hungry: int,
    bundle: Callable[[str], int],
    claim: Callable[[Sequence[str]], list[Claim]],
) -> tuple[list[list[Claim]], bool]:
    """Claims of short tasks for *hungry* threads: of what was just released, else of what waits in the store.

    And whether nothing is left in the store that a doorbell could be rung for.
    """
    found, seen_all = [one.ready for one in ended.released], False
    if not found:
        room = hungry * _LARGEST_SHARE
        rows = ready.next_to_enqueue(tx, workspace_id, project_id, room=room)
        found = [dispatch_window.ready_of(row) for row in rows]
        seen_all = len(rows) < room
    wanted = dispatch_window.shares(found, wanted=hungry, bundle=bundle)
    claims = {one.task_id: one for one in claim([each for share in wanted for each in share])} if wanted else {}
    shares = [[claims[each] for each in share if each in claims] for share in wanted]
    return [share for share in shares if share], seen_all and len(claims) == len(found)


def backoff_of(stored: dict[str, Any]) -> Backoff:
    """The back-off as stored with the task, or the default."""
    if not stored:
        return Backoff()
    return Backoff(
        initial=timedelta(seconds=stored["initial"]),
        factor=stored["factor"],
        maximum=timedelta(seconds=stored["maximum"]),
    )


def _ending(finish: Finish, worker_id: str) -> Ending:
    claim, result = finish.claim, finish.result
    return Ending(
        task_id=claim.task_id,
        attempt=claim.attempt,
        run_id=claim.run_id,
        key=claim.key,
        outcome=result.outcome,
        decision=finish.decision,
        actor=f"worker:{worker_id}",
        output=result.output,
        exit_code=result.exit_code,
        error=result.error,
        log=result.log,
        slots=claim.slots,
        carried={**claim.carried, **result.carry} if result.carry else None,
        question=result.question,
        artifacts=result.artifacts,
        # A budget that was set after the claim counts it as a start, and gets that back; and what a heartbeat has
        # reserved of it for another call, when it wrote down what was spent.
        budgeted=claim.budgeted
        or bool(finish.written or finish.costs)
        or (not result.began and asks_a_model(claim.work)),
        began=result.began,
        details=_details(result),
        known_wait=isinstance(finish.decision, RetryAfter) and finish.decision.known,
    )


def _details(result: Result) -> dict[str, Any]:
    """What is kept of an end besides: the limit that it met, and what an agent changed."""
    limit = {} if result.limit is None else {"limit": result.limit.to_json()}
    return limit | ({} if result.effect is None else {"effect": result.effect.to_json()})


def cost_of(claim: Spender, usage: Usage, now: datetime) -> CostRecord:
    """The record of what an attempt used."""
    total = usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens
    return CostRecord(
        id=usage.id or usage.mark or new_id(),
        session_id=usage.session_id or claim.session_id,
        project_id=claim.project_id,
        run_id=claim.run_id,
        task_id=claim.task_id,
        attempt=claim.attempt,
        agent=claim.agent,
        agent_id=claim.agent_id,
        model=usage.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        total_tokens=total,
        cost_usd=usage.cost_usd,
        stale=False,
        occurred_at=usage.at or now,
        extra=usage.extra,
        account=claim.work.get("account"),
    )
