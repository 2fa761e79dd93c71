"""The end of attempts: decides what becomes of their tasks, stores it, and closes runs whose tasks have ended.

All functions run in the caller's transaction and lock rows in the order that ``store.queries`` describes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from sqlalchemy import Connection, RowMapping

from coordination.base.ids import new_id
from coordination.domain.attempts.attempt_ends import EndedAttempt, build_end_event
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.tasks.attempts import CONVERSATION_KEY, AttemptEnd, AttemptIdentity, Claim, Outcome, Usage
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import (
    AskPerson,
    Backoff,
    Complete,
    Decision,
    GiveUp,
    RetryAfter,
    StayCanceled,
    Wait,
    decide,
    find_wait,
    retry_not_before,
)
from coordination.domain.tasks.tasks import (
    DEFERRAL_LIMIT,
    BlockReason,
    CancelCause,
    OnDependencyFailure,
    TaskState,
    describe_limit,
)
from coordination.store.queries.jobs import artifacts
from coordination.store.queries.tasks import attempts, events, outdated, ready, runs, slots
from coordination.store.queries.tasks import dependencies as edges
from coordination.store.queries.tasks import tasks as rows
from coordination.store.queries.tasks.attempts import ReleasedTask
from coordination.store.queries.tasks.tasks import CounterChanges

_JITTER = 0.25


def close_runs(tx: Connection, workspace_id: str, run_ids: Iterable[str], *, actor: str | None = None) -> list[str]:
    """Close the runs that have no open task, and return their ids. Exactly one caller closes each run.

    Runs are locked after everything else.
    """
    closed = runs.close_if_done(tx, workspace_id, sorted(run_ids))
    finished = [NewEvent(EventType.RUN_FINISHED, run["project_id"], run["id"], actor=actor) for run in closed]
    events.append(tx, workspace_id, finished)
    return [run["id"] for run in closed]


def reopen_run(tx: Connection, workspace_id: str, project_id: str, run_id: str, *, actor: str) -> bool:
    """Reopen a run, and return whether it was closed."""
    was_closed = runs.reopen(tx, workspace_id, run_id)
    if was_closed:
        events.append(tx, workspace_id, [NewEvent(EventType.RUN_REOPENED, project_id, run_id, actor=actor)])
    return was_closed


@dataclass(slots=True)
class EndEffects:
    """The effects of ending the attempts ``ends``. Services and listeners add to them; dispatch reads them.

    ``fences``: the attempts whose fence was valid. ``already_recorded``: tasks whose end an earlier commit wrote whose
    answer was lost. ``freed``: tasks that became ready; ``released``: those that completions made ready, best first.
    ``to_settle``: attempts whose reservations are to be settled. ``runs_to_check``: runs in which a task ended.
    ``retry_in``: the delay until a task may be retried. ``newly_ready``: the number of tasks that became ready through
    questions, answers and discovered tasks. ``money_returned``: reserved money came back, and tasks wait for money.
    """

    ends: Sequence[EndedAttempt] = ()
    fences: set[tuple[str, int]] = field(default_factory=set)
    already_recorded: set[str] = field(default_factory=set)
    freed: list[str] = field(default_factory=list)
    released: list[ReleasedTask] = field(default_factory=list)
    closed_runs: list[str] = field(default_factory=list)
    continuing_runs: set[str] = field(default_factory=set)
    maybe_done_runs: set[str] = field(default_factory=set)
    runs_to_check: set[str] = field(default_factory=set)
    to_settle: set[tuple[str, int]] = field(default_factory=set)
    retry_in: dict[str, timedelta] = field(default_factory=dict)
    newly_ready: int = 0
    money_returned: bool = False

    @property
    def moved_tasks(self) -> set[str]:
        """Return the tasks whose ended attempt had a valid fence."""
        return {task_id for task_id, _ in self.fences}

    def effective_ends(self) -> list[EndedAttempt]:
        """Return the ended attempts whose fence was valid."""
        return [ended for ended in self.ends if ended.fence in self.fences]


def end_attempts(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ends: Sequence[EndedAttempt],
    *,
    actor: str | None,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
    nowait: bool = False,
) -> EndEffects:
    """End these attempts, and return the effects. A stale fence does not change its task.

    A task that would be retried but has reached a limit waits for a person. The caller calls ``close_ended_runs`` after
    it has claimed further tasks. *nowait*: see ``lock_ends``.
    """
    lock_ends(tx, workspace_id, ends, nowait=nowait)
    completing = [ended for ended in ends if isinstance(ended.decision, Complete)]
    others = [ended for ended in ends if not isinstance(ended.decision, Complete)]
    effects = EndEffects(ends)
    if completing:
        effects.fences, effects.released = attempts.complete(tx, workspace_id, project_id, completing, actor=actor)
        effects.freed = [task.ready.id for task in effects.released]
        effects.continuing_runs = {task.run_id for task in effects.released}
    others = [_move_task(tx, workspace_id, ended, effects, deferral_limit) for ended in others]
    moved = [ended for ended in others if ended.fence in effects.fences]
    if moved:
        attempts.close_many(tx, workspace_id, [_closed_row(ended) for ended in moved])
        events.append(tx, workspace_id, [build_end_event(project_id, ended, actor=actor) for ended in moved])
        outdated.wait_again(tx, workspace_id, [ended.fence for ended in moved])
    effective = effects.effective_ends()
    for ended in effective:
        if ended.end.artifacts:
            artifacts.add(tx, workspace_id, ended.task_id, ended.attempt, ended.end.artifacts)
        conversation = (ended.carried_over or {}).get(CONVERSATION_KEY)
        if ended.details or conversation:
            attempts.record_details(
                tx, workspace_id, ended.task_id, ended.attempt, ended.details, conversation=conversation
            )
    slot_names = [name for ended in effective for name in ended.slots]
    stale = [ended for ended in ends if ended.fence not in effects.fences]
    attempts.lock(tx, workspace_id, [ended.fence for ended in stale], nowait=True)  # after the completed ones
    for ended in stale:
        slot_names += _close_fenced(tx, workspace_id, ended, effects)
    dead = {ended.task_id: ended.key for ended in moved if isinstance(ended.decision, GiveUp)}
    if dead:
        _propagate(tx, workspace_id, project_id, dead, effects)
    slots.give_back(tx, workspace_id, project_id, slot_names)
    effects.to_settle |= {ended.fence for ended in effective if ended.has_reservation}
    effects.runs_to_check = {ended.run_id for ended in effective if ended.ends_task()}
    retried = [(ended.task_id, ended.decision) for ended in effective]
    effects.retry_in = {task_id: decision.wait for task_id, decision in retried if isinstance(decision, RetryAfter)}
    return effects


def lock_ends(tx: Connection, workspace_id: str, ends: Sequence[EndedAttempt], *, nowait: bool = False) -> None:
    """Lock the tasks that these ends change, the tasks that wait for them, and then the attempts.

    Completions alone need no locks here: their statement locks what it changes. *nowait*: the caller has locked tasks
    already, so fail instead of waiting for other transactions.
    """
    if all(isinstance(ended.decision, Complete) for ended in ends):
        return
    completing = [ended.task_id for ended in ends if isinstance(ended.decision, Complete)]
    dead = [ended.task_id for ended in ends if isinstance(ended.decision, GiveUp)]
    ids = {ended.task_id for ended in ends}.union(edges.waiting_children(tx, workspace_id, completing))
    rows.lock(tx, workspace_id, ids.union(edges.with_dependants(tx, workspace_id, dead)), nowait=nowait)
    attempts.lock(tx, workspace_id, [ended.fence for ended in ends], nowait=nowait)


def close_ended_runs(
    tx: Connection, workspace_id: str, effects: EndEffects, *, continuing: AbstractSet[str] = frozenset()
) -> None:
    """Close the runs in ``effects.runs_to_check`` without open tasks; note those that only running tasks keep open.

    The runs *continuing* surely have an open task.
    """
    finished = []
    for run_id in sorted(effects.runs_to_check - effects.continuing_runs - continuing):
        states = rows.open_states(tx, workspace_id, run_id)
        if not states:
            finished.append(run_id)
        elif all(state == "running" for state in states):
            # Two last tasks that end at once each see the other running: the caller checks again after its commit.
            effects.maybe_done_runs.add(run_id)
    effects.closed_runs += close_runs(tx, workspace_id, finished)


def cancel_tasks(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ids: Sequence[str],
    *,
    actor: str,
    why: str,
    nowait: bool = False,
) -> tuple[list[tuple[str, int]], EndEffects]:
    """Cancel the open ones of these tasks, and apply the failure policies of the tasks that depend on them.

    Return (id, attempt) of each of these that was canceled, and the effects. A running attempt keeps its lease and
    slots until its worker has ended the job or the lease expires. *nowait*: see ``lock_ends``.
    """
    effects = EndEffects()
    rows.lock(tx, workspace_id, edges.with_dependants(tx, workspace_id, ids), nowait=nowait)
    canceled = rows.cancel(tx, workspace_id, sorted(ids), cause=CancelCause.PERSON, error=why)
    events.append(tx, workspace_id, [_cancellation(project_id, row, why, actor) for row in canceled])
    if canceled:
        _propagate(tx, workspace_id, project_id, {row["id"]: row["key"] for row in canceled}, effects)
    effects.runs_to_check = {row["run_id"] for row in canceled}
    close_ended_runs(tx, workspace_id, effects)
    return [(row["id"], row["attempt"]) for row in canceled], effects


def _cancellation(project_id: str, row: RowMapping, why: str, actor: str | None = None) -> NewEvent:
    return NewEvent(EventType.CANCELED, project_id, row["run_id"], row["id"], actor=actor, payload={"why": why})


def _move_task(
    tx: Connection, workspace_id: str, ended: EndedAttempt, effects: EndEffects, deferral_limit: timedelta
) -> EndedAttempt:
    """Move the task, and return the ended attempt with the final decision, which a reached limit changes."""
    task, number, error = (workspace_id, ended.task_id), ended.attempt, ended.end.error
    counts, limit = _counter_changes(ended), None
    match ended.decision:
        case Complete():
            return ended
        case StayCanceled():
            # A stray cancel signal stopped the attempt, but its task was not canceled: queue the task again.
            end = replace(ended.end, error="it was stopped, but its task was not canceled")
            stopped = replace(ended, end=end, decision=RetryAfter(timedelta(0)), carried_over=None)
            moved, limit = _queue_again(tx, workspace_id, stopped, counts, deferral_limit)
        case RetryAfter():
            moved, limit = _queue_again(tx, workspace_id, ended, counts, deferral_limit)
        case GiveUp():
            moved = rows.fail(tx, *task, attempt=number, counts=counts, error=error, carried=ended.carried_over)
        case Wait(reasons):
            counts = replace(counts, failures=0, deferrals=0, own_end=True)
            moved = rows.block(
                tx, *task, attempt=number, counts=counts, reason=reasons, error=None, carried=ended.carried_over
            )
        case AskPerson():
            moved = rows.block(
                tx, *task, attempt=number, counts=counts, reason=BlockReason.OUTCOME_UNKNOWN, error=error
            )
        case _ as never:
            assert_never(never)
    if moved:
        effects.fences.add(ended.fence)
    return ended if limit is None else replace(ended, decision=AskPerson(limit))


def _queue_again(
    tx: Connection, workspace_id: str, ended: EndedAttempt, counts: CounterChanges, deferral_limit: timedelta
) -> tuple[bool, str | None]:
    """Return whether the fence was valid, and which limit keeps another attempt from following."""
    row = rows.queue_again(
        tx,
        workspace_id,
        ended.task_id,
        attempt=ended.attempt,
        wait=ended.decision.wait if isinstance(ended.decision, RetryAfter) else timedelta(0),
        counts=counts,
        error=ended.end.error,
        carried=ended.carried_over,
        deferral_limit=deferral_limit,
    )
    if row is None or row["state"] != TaskState.BLOCKED:
        return row is not None, None
    return True, describe_limit(
        starts=row["starts"],
        max_starts=row["max_starts"],
        deferrals=row["deferrals"],
        deferred_for=row["now"] - (row["deferred_since"] or row["now"]),
        consecutive_losses=row["consecutive_losses"],
    )


def _counter_changes(ended: EndedAttempt) -> CounterChanges:
    outcome = ended.end.outcome
    # A job that ended by itself did not kill its worker.
    keeps_losses = outcome in (Outcome.LOST, Outcome.HANDED_BACK, Outcome.CANCELED)
    return CounterChanges(
        failures=int(outcome in (Outcome.FAILED, Outcome.TIMED_OUT)),
        losses=ended.losses if keeps_losses else 0,
        deferrals=int(outcome is Outcome.DEFERRED),
        started=ended.end.job_started,
        lost=outcome is Outcome.LOST,
        own_end=outcome in (Outcome.FAILED, Outcome.TIMED_OUT),
        known_wait=isinstance(ended.decision, RetryAfter) and ended.decision.has_known_end,
    )


def _closed_row(ended: EndedAttempt) -> dict[str, Any]:
    return {
        "task": ended.task_id,
        "number": ended.attempt,
        "outcome": ended.end.outcome,
        "exit_code": ended.end.exit_code,
        "error": ended.end.error,
        "output": ended.end.output,
        "log": ended.end.log,
        "began": None if ended.end.job_started else False,
    }


def _close_fenced(tx: Connection, workspace_id: str, ended: EndedAttempt, effects: EndEffects) -> list[str]:
    """Close an attempt with a stale fence, if it is still open (a cancel in progress), and return its slots."""
    is_late = ended.end.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    closing = replace(ended, end=ended.end.ending_as(Outcome.CANCELED, output=None)) if is_late else ended
    before = attempts.outcome_of(tx, workspace_id, ended.task_id, ended.attempt)
    if before is not None and before[0] is not None:
        # Our own commit succeeded, but its answer was lost. LOST proves nothing: a rescue writes it as well.
        if before[0] is ended.end.outcome and ended.end.outcome is not Outcome.LOST:
            effects.already_recorded.add(ended.task_id)
        return []
    was_open, slot_names = attempts.close_one(tx, workspace_id, _closed_row(closing))
    if was_open and ended.has_reservation:
        effects.to_settle.add(ended.fence)
    return slot_names


def _release(tx: Connection, workspace_id: str, project_id: str, satisfied: Counter[str], effects: EndEffects) -> None:
    """Lower the pending counters of these locked children, and queue those that wait for nothing more."""
    if not satisfied:
        return
    freed = ready.lower_pending(tx, workspace_id, satisfied)
    effects.freed += [task_id for task_id, _ in freed]
    effects.continuing_runs |= {run_id for _, run_id in freed}
    events.append(
        tx, workspace_id, [NewEvent(EventType.UNBLOCKED, project_id, run_id, task_id) for task_id, run_id in freed]
    )


def _propagate(tx: Connection, workspace_id: str, project_id: str, dead: dict[str, str], effects: EndEffects) -> None:
    """Apply the failure policies of the dependants of *dead*, level by level: run, stay blocked, or be canceled."""
    while dead:
        waiting = edges.waiting_children(tx, workspace_id, sorted(dead))
        if not waiting:
            return
        children = sorted(waiting)
        # Already locked, except those that began to wait just now.
        rows.lock(tx, workspace_id, children, nowait=True)
        policies: dict[str, OnDependencyFailure] = {}
        for start in range(0, len(children), rows.BATCH):
            policies |= rows.get_failure_policies(tx, workspace_id, children[start : start + rows.BATCH])
        run_anyway = [child for child in children if policies.get(child) is OnDependencyFailure.RUN]
        if run_anyway:
            parents = sorted({parent for child in run_anyway for parent in waiting[child]})
            satisfied = edges.satisfy_edges(tx, workspace_id, parents, run_anyway)
            _release(tx, workspace_id, project_id, satisfied, effects)
        by_cause: dict[str, list[str]] = {}
        for child in (each for each in children if policies.get(each) is OnDependencyFailure.CANCEL):
            by_cause.setdefault(dead[waiting[child][0]], []).append(child)
        dead, canceled = {}, []
        for cause, ids in by_cause.items():
            error = f"{cause}, which it needs, ended without success"
            for row in rows.cancel(tx, workspace_id, ids, cause=CancelCause.DEPENDENCY, error=error):
                dead[row["id"]] = row["key"]
                canceled.append(_cancellation(project_id, row, error))
        events.append(tx, workspace_id, canceled)


def decide_end(
    claim: Claim,
    end: AttemptEnd,
    *,
    now: datetime,
    took: timedelta = timedelta(0),
    costs: tuple[CostRecord, ...] | None = None,
    recorded_costs: tuple[CostRecord, ...] = (),
) -> EndedAttempt:
    """Return the ended attempt of *claim* with the decision that follows from *end*.

    Ids of cost records are created here, so that a repeated commit bills nothing twice. *recorded_costs*: costs that
    are in the ledger already; *costs*: the others; None: all usage in *end*.
    """
    if costs is None:
        costs = tuple(build_cost_record(claim, usage, now) for usage in end.usage) if end.usage else ()
    decision = Complete() if end.outcome is Outcome.COMPLETED else _decision(claim, end, now)
    if isinstance(decision, Wait) and decision.reasons != BlockReason.BUDGET:
        # Output before an answer is not a result; output before the budget ran out is kept.
        end = replace(end, output=None)
    # Even without a reservation at the claim, a budget that was set later has counted a start, and a heartbeat that
    # recorded costs has reserved money for the next call: both are returned.
    reserved_later = bool(recorded_costs or costs) or (not end.job_started and asks_a_model(claim.work))
    subject = claim.task_id, claim.attempt, claim.run_id, claim.key
    return EndedAttempt(
        *subject,
        end,
        decision,
        claim,
        took,
        costs,
        recorded_costs,
        slots=claim.slots,
        carried_over={**claim.carried_over, **end.carry_over} if end.carry_over else None,
        has_reservation=claim.budgeted or reserved_later,
    )


def _decision(claim: Claim, end: AttemptEnd, now: datetime) -> Decision:
    if (wait_for := find_wait(end)) is not None:
        return wait_for  # neither a success nor a failure
    backoff = _parse_backoff(claim.backoff)
    failed = end.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    decision: Decision = decide(
        end.outcome,
        failures=claim.failures + int(failed),
        losses=claim.losses,
        deferrals=claim.deferrals + int(end.outcome is Outcome.DEFERRED),
        max_attempts=claim.max_attempts,
        repeatable=claim.repeatable,
        backoff=backoff,
        retryable=end.retryable,
        job_started=end.job_started,
        killed=end.exit_code is not None and end.exit_code < 0,
    )
    if not isinstance(decision, RetryAfter) or not decision.wait:
        return decision
    # Jitter: tasks that failed together (a provider was down) must not retry together.
    wait = decision.wait * (1 + _JITTER * random.random())  # noqa: S311 - no secret
    if end.not_before is None:
        return RetryAfter(wait)
    is_limit = end.limit is not None and end.limit.resets_at is not None
    return retry_not_before(end.not_before, wait, now=now, backoff=backoff, limit=is_limit)


def _parse_backoff(stored: Mapping[str, Any]) -> Backoff:
    """Return the back-off that is stored with the task, or the default."""
    if not stored:
        return Backoff()
    initial, maximum = (timedelta(seconds=stored[name]) for name in ("initial", "maximum"))
    return Backoff(initial=initial, factor=stored["factor"], maximum=maximum)


def build_cost_record(spender: AttemptIdentity, usage: Usage, now: datetime) -> CostRecord:
    """Return the cost record of a model call."""
    total = usage.input_tokens + usage.output_tokens if usage.total_tokens is None else usage.total_tokens
    return CostRecord(
        id=usage.id or usage.mark or new_id(),
        session_id=usage.session_id or spender.session_id,
        project_id=spender.project_id,
        run_id=spender.run_id,
        task_id=spender.task_id,
        attempt=spender.attempt,
        agent=spender.agent,
        model=usage.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        total_tokens=total,
        cost_usd=usage.cost_usd,
        stale=False,
        occurred_at=usage.at or now,
        extra=usage.extra,
        account=spender.work.get("account"),
    )
