"""The end of attempts and of tasks, whoever ends them: fence, evidence, slots, events, release of dependants.

Everything here happens in one transaction of the caller, and locks rows in the order that ``store.queries`` describes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import timedelta
from typing import Any, assert_never

from sqlalchemy import Connection, RowMapping

from coordination.domain.attempts.attempt_ends import EndedAttempt, event_of
from coordination.domain.tasks.attempts import CONVERSATION, Outcome
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.retry import AskPerson, Complete, GiveUp, RetryAfter, StayCanceled, Wait
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT, limit_reached
from coordination.domain.tasks.tasks import BlockReason, CancelCause, OnDependencyFailure, TaskState
from coordination.services.attempts.close_runs import close_runs
from coordination.services.attempts.end_effects import EndEffects
from coordination.store.queries.jobs import artifacts
from coordination.store.queries.tasks import attempts as attempt_rows
from coordination.store.queries.tasks import completions, outdated, ready, slots
from coordination.store.queries.tasks import dependencies as edges
from coordination.store.queries.tasks import events as log
from coordination.store.queries.tasks import tasks as rows
from coordination.store.queries.tasks.attempt_counters import CounterChanges


def end_attempts(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ends: Sequence[EndedAttempt],
    *,
    actor: str | None,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
    late: bool = False,
) -> EndEffects:
    """End these attempts, and return what that did. A fence that no longer holds changes nothing of its task.

    A task that would be tried again, and has reached a limit, waits for a person instead. The caller closes the runs in
    ``ended_in`` (``close_ended_runs``) once it knows what goes on. *late*: see ``lock_ends``.
    """
    lock_ends(tx, workspace_id, ends, late=late)
    completing = [ended for ended in ends if isinstance(ended.decision, Complete)]
    others = [ended for ended in ends if not isinstance(ended.decision, Complete)]
    effects = EndEffects(ends)
    if completing:
        effects.fences, effects.released = completions.complete(tx, workspace_id, project_id, completing, actor=actor)
        effects.freed = [task.ready.id for task in effects.released]
        effects.runs_going_on = {task.run_id for task in effects.released}
    others = [_move_task(tx, workspace_id, ended, effects, deferral_limit) for ended in others]
    held = [ended for ended in others if ended.fence in effects.fences]
    if held:
        attempt_rows.close_many(tx, workspace_id, [_closing(ended) for ended in held])
        log.append(tx, workspace_id, [event_of(project_id, ended, actor=actor) for ended in held])
        outdated.wait_again(tx, workspace_id, [ended.fence for ended in held])
    counted = effects.counted()
    for ended in counted:
        if ended.end.artifacts:
            artifacts.add(tx, workspace_id, ended.task_id, ended.attempt, ended.end.artifacts)
        conversation = (ended.carried or {}).get(CONVERSATION)
        if ended.details or conversation:
            attempt_rows.note_details(
                tx, workspace_id, ended.task_id, ended.attempt, ended.details, conversation=conversation
            )
    left = [name for ended in counted for name in ended.slots]
    stale = [ended for ended in ends if ended.fence not in effects.fences]
    attempt_rows.lock(tx, workspace_id, [ended.fence for ended in stale], nowait=True)  # after those that completed
    for ended in stale:
        left += _close_fenced(tx, workspace_id, ended, effects)
    dead = {ended.task_id: ended.key for ended in held if isinstance(ended.decision, GiveUp)}
    if dead:
        _propagate(tx, workspace_id, project_id, dead, effects)
    slots.give_back(tx, workspace_id, project_id, left)
    effects.closing |= {ended.fence for ended in counted if ended.reserved}
    effects.ended_in = {ended.run_id for ended in counted if ended.ends_task()}
    retried = [(ended.task_id, ended.decision) for ended in counted]
    effects.retry_in = {task_id: decision.wait for task_id, decision in retried if isinstance(decision, RetryAfter)}
    return effects


def lock_ends(tx: Connection, workspace_id: str, ends: Sequence[EndedAttempt], *, late: bool = False) -> None:
    """Lock the tasks that these ends change, those that wait for them, and then the attempts.

    Nothing to do for completions alone: their ended statement locks what it changes. *late*: the caller has locked
    tasks already, so that others are not waited for.
    """
    if all(isinstance(ended.decision, Complete) for ended in ends):
        return
    completing = [ended.task_id for ended in ends if isinstance(ended.decision, Complete)]
    dead = [ended.task_id for ended in ends if isinstance(ended.decision, GiveUp)]
    ids = {ended.task_id for ended in ends}.union(edges.waiting_children(tx, workspace_id, completing))
    rows.lock(tx, workspace_id, ids.union(edges.with_dependants(tx, workspace_id, dead)), nowait=late)
    attempt_rows.lock(tx, workspace_id, [ended.fence for ended in ends], nowait=late)


def close_ended_runs(
    tx: Connection, workspace_id: str, effects: EndEffects, *, going_on: AbstractSet[str] = frozenset()
) -> None:
    """Write the end of the runs in ``effects.ended_in`` that have no open task; those *going_on* surely have one."""
    _close_runs(tx, workspace_id, effects.ended_in - going_on, effects)


def cancel_tasks(
    tx: Connection, workspace_id: str, project_id: str, ids: Sequence[str], *, actor: str, why: str, late: bool = False
) -> tuple[list[tuple[str, int]], EndEffects]:
    """Cancel open tasks and what depends on them as it asks to be treated; (id, attempt) of those canceled by this.

    A running attempt keeps its lease and its slots until its worker has ended the job, or the lease runs out.
    *late*: as in ``lock_ends``.
    """
    effects = EndEffects()
    rows.lock(tx, workspace_id, edges.with_dependants(tx, workspace_id, ids), nowait=late)
    canceled = rows.cancel(tx, workspace_id, sorted(ids), cause=CancelCause.PERSON, error=why)
    log.append(tx, workspace_id, [_cancellation(project_id, row, why, actor) for row in canceled])
    if canceled:
        _propagate(tx, workspace_id, project_id, {row["id"]: row["key"] for row in canceled}, effects)
    _close_runs(tx, workspace_id, {row["run_id"] for row in canceled}, effects)
    return [(row["id"], row["attempt"]) for row in canceled], effects


def _cancellation(project_id: str, row: RowMapping, why: str, actor: str | None = None) -> NewEvent:
    return NewEvent(EventType.CANCELED, project_id, row["run_id"], row["id"], actor=actor, payload={"why": why})


def _move_task(
    tx: Connection, workspace_id: str, ended: EndedAttempt, effects: EndEffects, deferral_limit: timedelta
) -> EndedAttempt:
    """Move the task, and return the end with the final decision: a limit that is reached lets no attempt follow."""
    task, number, error = (workspace_id, ended.task_id), ended.attempt, ended.end.error
    counts, limit = _counts(ended), None
    match ended.decision:
        case Complete():
            return ended
        case StayCanceled():
            # The attempt was told to stop, but its task was not canceled: a stray message must not strand it.
            moved, limit = _try_again(tx, workspace_id, _given_back(ended), timedelta(0), counts, deferral_limit)
        case RetryAfter(wait):
            moved, limit = _try_again(tx, workspace_id, ended, wait, counts, deferral_limit)
        case GiveUp():
            moved = rows.fail(tx, *task, attempt=number, counts=counts, error=error, carried=ended.carried)
        case Wait(reasons):
            counts = replace(counts, failures=0, deferrals=0, own_end=True)
            moved = rows.wait(
                tx, *task, attempt=number, counts=counts, reason=reasons, error=None, carried=ended.carried
            )
        case AskPerson():
            moved = rows.wait(tx, *task, attempt=number, counts=counts, reason=BlockReason.OUTCOME_UNKNOWN, error=error)
        case _ as never:
            assert_never(never)
    if moved:
        effects.fences.add(ended.fence)
    return ended if limit is None else replace(ended, decision=AskPerson(limit))


def _try_again(  # noqa: PLR0917 - called twice, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    ended: EndedAttempt,
    wait: timedelta,
    counts: CounterChanges,
    deferral_limit: timedelta,
) -> tuple[bool, str | None]:
    """Whether the attempt still held its task; and why no other may follow, if none may."""
    row = rows.queue_again(
        tx,
        workspace_id,
        ended.task_id,
        attempt=ended.attempt,
        wait=wait,
        counts=counts,
        error=ended.end.error,
        carried=ended.carried,
        deferral_limit=deferral_limit,
    )
    if row is None or row["state"] != TaskState.BLOCKED:
        return row is not None, None
    return True, limit_reached(
        starts=row["starts"],
        most=row["max_starts"],
        deferrals=row["deferrals"],
        deferred_for=row["now"] - (row["deferred_since"] or row["now"]),
        consecutive_losses=row["consecutive_losses"],
    )


def _given_back(ended: EndedAttempt) -> EndedAttempt:
    """An attempt that stopped as canceled although it still held its task."""
    end = replace(ended.end, error="it was stopped, although nobody had canceled it")
    return replace(ended, end=end, carried=None)


def _counts(ended: EndedAttempt) -> CounterChanges:
    outcome = ended.end.outcome
    # A job that came to an end of its own, whatever it was, did not end its worker.
    unchanged = outcome in (Outcome.LOST, Outcome.HANDED_BACK, Outcome.CANCELED)
    return CounterChanges(
        failures=int(outcome in (Outcome.FAILED, Outcome.TIMED_OUT)),
        losses=ended.losses if unchanged else 0,
        deferrals=int(outcome is Outcome.DEFERRED),
        started=ended.end.began,
        lost=outcome is Outcome.LOST,
        own_end=outcome in (Outcome.FAILED, Outcome.TIMED_OUT),
        known_wait=isinstance(ended.decision, RetryAfter) and ended.decision.known,
    )


def _closing(ended: EndedAttempt) -> dict[str, Any]:
    return {
        "task": ended.task_id,
        "number": ended.attempt,
        "outcome": ended.end.outcome,
        "exit_code": ended.end.exit_code,
        "error": ended.end.error,
        "output": ended.end.output,
        "log": ended.end.log,
        "began": None if ended.end.began else False,
    }


def _close_fenced(tx: Connection, workspace_id: str, ended: EndedAttempt, effects: EndEffects) -> list[str]:
    """The task has moved on. Only an attempt whose end nobody has written yet (a cancel in progress) is closed here.

    The slots that it held.
    """
    late = ended.end.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    closing = replace(ended, end=ended.end.ending_as(Outcome.CANCELED, output=None)) if late else ended
    before = attempt_rows.outcome_of(tx, workspace_id, ended.task_id, ended.attempt)
    if before is not None and before[0] is not None:
        # Our own commit, whose answer was lost. That an attempt is lost others write as well.
        if before[0] is ended.end.outcome and ended.end.outcome is not Outcome.LOST:
            effects.recorded_before.add(ended.task_id)
        return []
    was_open, held_slots = attempt_rows.close_one(tx, workspace_id, _closing(closing))
    if was_open and ended.reserved:
        effects.closing.add(ended.fence)
    return held_slots


def _release(tx: Connection, workspace_id: str, project_id: str, satisfied: Counter[str], effects: EndEffects) -> None:
    """Lower the counters of these locked children; the cost grows with them, never with the size of the store."""
    if not satisfied:
        return
    freed = ready.less_pending(tx, workspace_id, satisfied)
    effects.freed += [task_id for task_id, _ in freed]
    effects.runs_going_on |= {run_id for _, run_id in freed}
    log.append(
        tx,
        workspace_id,
        [NewEvent(EventType.UNBLOCKED, project_id, run_id, task_id) for task_id, run_id in freed],
    )


def _propagate(tx: Connection, workspace_id: str, project_id: str, dead: dict[str, str], effects: EndEffects) -> None:
    """Tell the dependants of tasks that ended without success, wave by wave: run, stay blocked, or be canceled too."""
    while dead:
        waiting = edges.waiting_children(tx, workspace_id, sorted(dead))
        if not waiting:
            return
        wants: dict[str, OnDependencyFailure] = {}
        children = sorted(waiting)
        # They are locked, but for those that began to wait just now.
        rows.lock(tx, workspace_id, children, nowait=True)
        for start in range(0, len(children), rows.BATCH):
            wants |= rows.policies(tx, workspace_id, children[start : start + rows.BATCH])
        run_anyway = [child for child in children if wants.get(child) is OnDependencyFailure.RUN]
        if run_anyway:
            parents = sorted({parent for child in run_anyway for parent in waiting[child]})
            satisfied = edges.satisfy_edges(tx, workspace_id, parents, run_anyway)
            _release(tx, workspace_id, project_id, satisfied, effects)
        falling = [child for child in children if wants.get(child) is OnDependencyFailure.CANCEL]
        canceled: list[Any] = []
        by_cause: dict[str, list[str]] = {}
        for child in falling:
            by_cause.setdefault(dead[waiting[child][0]], []).append(child)
        for cause, fallen in by_cause.items():
            error = f"{cause}, which it needs, ended without success"
            canceled += [
                (row, error) for row in rows.cancel(tx, workspace_id, fallen, cause=CancelCause.DEPENDENCY, error=error)
            ]
        log.append(tx, workspace_id, [_cancellation(project_id, row, error) for row, error in canceled])
        dead = {row["id"]: row["key"] for row, _ in canceled}


def _close_runs(tx: Connection, workspace_id: str, run_ids: set[str], effects: EndEffects) -> None:
    """Write the end of runs that have no open task; note those that only tasks in flight keep open."""
    finished = []
    for run_id in sorted(run_ids - effects.runs_going_on):
        open_now = rows.open_states(tx, workspace_id, run_id)
        if not open_now:
            finished.append(run_id)
        elif all(state == "running" for state in open_now):
            # Two last tasks that end at once each see the other running: the caller looks again after its commit.
            effects.maybe_done_runs.add(run_id)
    effects.closed_runs += close_runs(tx, workspace_id, finished)
