"""The end of attempts and of tasks, whoever ends them: fence, evidence, slots, events, release of dependants.

Everything here happens in one transaction of the caller. Rows are locked in one order everywhere (tasks by id, then
slots by name), so that two endings that meet the same children never wait for each other in a ring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import timedelta
from typing import Any, assert_never

from sqlalchemy import Connection

from coordination.domain.attempts import Outcome
from coordination.domain.events import EventType
from coordination.domain.retry import AskPerson, Complete, Decision, GiveUp, RetryAfter, StayCanceled, Wait
from coordination.domain.tasks import BlockReason, CancelCause, OnDependencyFailure
from coordination.services.endings.records import Ended, Ending
from coordination.store.queries import artifacts, completions, ready, runs, slots
from coordination.store.queries import attempts as attempt_rows
from coordination.store.queries import dependencies as edges
from coordination.store.queries import events as log
from coordination.store.queries import tasks as rows


def end_attempts(
    tx: Connection, workspace_id: str, project_id: str, endings: Sequence[Ending], *, close_runs: bool = True
) -> Ended:
    """End these attempts. A fence that no longer holds changes nothing of its task.

    Without *close_runs* the caller looks whether ``ended_in`` are done, when it knows what else it knows of them.
    """
    done = Ended()
    completing = [ending for ending in endings if isinstance(ending.decision, Complete)]
    others = [ending for ending in endings if not isinstance(ending.decision, Complete)]
    _complete(tx, workspace_id, project_id, completing, done)
    _move_tasks(tx, workspace_id, others, done)
    held = [ending for ending in others if ending.fence in done.fences]
    if held:
        attempt_rows.close_many(tx, workspace_id, [_closing(ending) for ending in held])
        log.append(tx, workspace_id, [_event(project_id, ending) for ending in held])
    for ending in endings:
        if ending.artifacts and ending.fence in done.fences:
            artifacts.add(tx, workspace_id, ending.task_id, ending.attempt, ending.artifacts)
    slots.give_back(
        tx, workspace_id, project_id, [name for one in endings if one.fence in done.fences for name in one.slots]
    )
    for ending in endings:
        if ending.fence not in done.fences:
            _close_fenced(tx, workspace_id, project_id, ending, done)
    dead = {ending.task_id: ending.key for ending in held if isinstance(ending.decision, GiveUp)}
    if dead:
        _propagate(tx, workspace_id, project_id, dead, done)
    done.closing |= {one.fence for one in endings if one.budgeted and one.fence in done.fences}
    done.ended_in = {one.run_id for one in endings if one.fence in done.fences and _is_final(one.decision)}
    if close_runs:
        close_ended_runs(tx, workspace_id, done)
    return done


def close_ended_runs(
    tx: Connection, workspace_id: str, done: Ended, *, going_on: AbstractSet[str] = frozenset()
) -> None:
    """Write the end of the runs in ``done.ended_in`` that have no open task; those *going_on* surely have one."""
    _close_runs(tx, workspace_id, done.ended_in - going_on, done)


def cancel_tasks(
    tx: Connection, workspace_id: str, project_id: str, ids: Sequence[str], *, actor: str, why: str
) -> tuple[list[tuple[str, int]], Ended]:
    """Cancel open tasks and what depends on them as it asks to be treated; (id, attempt) of those canceled by this.

    A running attempt keeps its lease and its slots until its worker has ended the job, or the lease runs out.
    """
    done = Ended()
    rows.lock(tx, workspace_id, sorted(ids))
    canceled = rows.cancel(tx, workspace_id, sorted(ids), cause=CancelCause.PERSON, error=why)
    log.append(
        tx,
        workspace_id,
        [
            {
                "project_id": project_id,
                "run_id": row["run_id"],
                "task_id": row["id"],
                "type": EventType.CANCELED,
                "actor": actor,
                "payload": {"why": why},
            }
            for row in canceled
        ],
    )
    if canceled:
        _propagate(tx, workspace_id, project_id, {row["id"]: row["key"] for row in canceled}, done)
    _close_runs(tx, workspace_id, {row["run_id"] for row in canceled}, done)
    return [(row["id"], row["attempt"]) for row in canceled], done


def _complete(tx: Connection, workspace_id: str, project_id: str, endings: Sequence[Ending], done: Ended) -> None:
    by_actor: dict[str | None, list[Ending]] = {}
    for ending in endings:
        by_actor.setdefault(ending.actor, []).append(ending)
    for actor, theirs in by_actor.items():
        held, freed = completions.complete(
            tx,
            workspace_id,
            project_id,
            [
                completions.Completion(
                    one.task_id,
                    one.attempt,
                    one.output,
                    one.exit_code,
                    one.error,
                    one.log,
                    _payload(one),
                    one.ahead,
                )
                for one in theirs
            ],
            actor=actor,
        )
        done.fences |= held
        done.held |= {task_id for task_id, _ in held}
        done.released += freed
        done.freed += [one.ready.id for one in freed]
        done.runs_going_on |= {one.run_id for one in freed}


def _move_tasks(tx: Connection, workspace_id: str, endings: Sequence[Ending], done: Ended) -> None:
    for ending in endings:
        match ending.decision:
            case Complete():
                continue
            case StayCanceled():
                # The attempt was told to stop, but its task was not canceled: a stray nudge must not strand it.
                moved = _give_back(tx, workspace_id, ending)
            case RetryAfter(wait):
                moved = rows.queue_again(
                    tx,
                    workspace_id,
                    ending.task_id,
                    attempt=ending.attempt,
                    wait=wait,
                    counts=_counts(ending.outcome),
                    error=ending.error,
                    carried=ending.carried,
                )
            case GiveUp():
                moved = rows.fail(
                    tx,
                    workspace_id,
                    ending.task_id,
                    attempt=ending.attempt,
                    counts=_counts(ending.outcome),
                    error=ending.error,
                    carried=ending.carried,
                )
            case Wait(reasons):
                moved = rows.wait(
                    tx,
                    workspace_id,
                    ending.task_id,
                    attempt=ending.attempt,
                    counts=rows.Counts(),
                    reason=reasons,
                    error=None,
                    carried=ending.carried,
                )
            case AskPerson():
                moved = rows.wait(
                    tx,
                    workspace_id,
                    ending.task_id,
                    attempt=ending.attempt,
                    counts=_counts(ending.outcome),
                    reason=BlockReason.OUTCOME_UNKNOWN,
                    error=ending.error,
                )
            case _ as never:
                assert_never(never)
        if moved:
            done.fences.add(ending.fence)
            done.held.add(ending.task_id)


def _give_back(tx: Connection, workspace_id: str, ending: Ending) -> bool:
    """Queue a task again whose attempt stopped as canceled although it still held the task; False: it did not."""
    return rows.queue_again(
        tx,
        workspace_id,
        ending.task_id,
        attempt=ending.attempt,
        wait=timedelta(0),
        counts=rows.Counts(),
        error="it was stopped, although nobody had canceled it",
    )


def _counts(outcome: Outcome) -> rows.Counts:
    return rows.Counts(
        failures=int(outcome in (Outcome.FAILED, Outcome.TIMED_OUT)),
        losses=int(outcome is Outcome.LOST),
        deferrals=int(outcome is Outcome.DEFERRED),
    )


def _closing(ending: Ending) -> dict[str, Any]:
    return {
        "task": ending.task_id,
        "number": ending.attempt,
        "outcome": ending.outcome,
        "exit_code": ending.exit_code,
        "error": ending.error,
        "output": ending.output,
        "log": ending.log,
    }


def _close_fenced(tx: Connection, workspace_id: str, project_id: str, ending: Ending, done: Ended) -> None:
    """The task has moved on. Only an attempt whose end nobody has written yet (a cancel in progress) is closed here."""
    late = ending.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    closing = replace(ending, outcome=Outcome.CANCELED, output=None) if late else ending
    before = attempt_rows.outcome_of(tx, workspace_id, ending.task_id, ending.attempt)
    if before is not None and before[0] is not None:
        if before[0] is ending.outcome:
            done.recorded_before.add(ending.task_id)  # our own commit, whose answer was lost
        return
    was_open, held_slots = attempt_rows.close_one(tx, workspace_id, _closing(closing))
    if was_open:
        slots.give_back(tx, workspace_id, project_id, held_slots)
        if ending.budgeted:
            done.closing.add(ending.fence)


_PLAIN = {"outcome": Outcome.COMPLETED.value}  # one object for all, so that it is looked at once


def _payload(ending: Ending) -> dict[str, Any]:
    plain = ending.outcome is Outcome.COMPLETED and isinstance(ending.decision, Complete) and not ending.payload
    if plain and not ending.error and ending.exit_code is None and ending.question is None:
        return _PLAIN
    payload: dict[str, Any] = {**ending.payload, "outcome": ending.outcome.value}
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


def _event(project_id: str, ending: Ending) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "run_id": ending.run_id,
        "task_id": ending.task_id,
        "attempt": ending.attempt,
        "type": _event_type(ending),
        "actor": ending.actor,
        "payload": _payload(ending),
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


def _is_final(decision: Decision) -> bool:
    return isinstance(decision, Complete | GiveUp)


def _release(tx: Connection, workspace_id: str, project_id: str, satisfied: Counter[str], done: Ended) -> None:
    """Lower the counters of these children; the cost grows with them, never with the size of the store."""
    if not satisfied:
        return
    children = sorted(satisfied)
    if len(children) > 1:  # one row alone cannot be part of a ring
        for start in range(0, len(children), rows.BATCH):
            rows.lock(tx, workspace_id, children[start : start + rows.BATCH])
    freed = ready.less_pending(tx, workspace_id, satisfied)
    done.freed += [task_id for task_id, _ in freed]
    done.runs_going_on |= {run_id for _, run_id in freed}
    log.append(
        tx,
        workspace_id,
        [
            {"project_id": project_id, "run_id": run_id, "task_id": task_id, "type": EventType.UNBLOCKED}
            for task_id, run_id in freed
        ],
    )


def _propagate(tx: Connection, workspace_id: str, project_id: str, dead: dict[str, str], done: Ended) -> None:
    """Tell the dependants of tasks that ended without success, wave by wave: run, stay blocked, or be canceled too."""
    while dead:
        waiting = edges.waiting_children(tx, workspace_id, sorted(dead))
        if not waiting:
            return
        wants: dict[str, OnDependencyFailure] = {}
        children = sorted(waiting)
        for start in range(0, len(children), rows.BATCH):
            wants |= rows.policies(tx, workspace_id, children[start : start + rows.BATCH])
        run_anyway = [child for child in children if wants.get(child) is OnDependencyFailure.RUN]
        if run_anyway:
            parents = sorted({parent for child in run_anyway for parent in waiting[child]})
            satisfied = edges.satisfy_edges(tx, workspace_id, parents, run_anyway)
            _release(tx, workspace_id, project_id, satisfied, done)
        falling = [child for child in children if wants.get(child) is OnDependencyFailure.CANCEL]
        canceled: list[Any] = []
        by_cause: dict[str, list[str]] = {}
        for child in falling:
            by_cause.setdefault(dead[waiting[child][0]], []).append(child)
        rows.lock(tx, workspace_id, falling)
        for cause, fallen in by_cause.items():
            error = f"{cause}, which it needs, ended without success"
            canceled += [
                (row, error) for row in rows.cancel(tx, workspace_id, fallen, cause=CancelCause.DEPENDENCY, error=error)
            ]
        log.append(
            tx,
            workspace_id,
            [
                {
                    "project_id": project_id,
                    "run_id": row["run_id"],
                    "task_id": row["id"],
                    "type": EventType.CANCELED,
                    "payload": {"why": error},
                }
                for row, error in canceled
            ],
        )
        dead = {row["id"]: row["key"] for row, _ in canceled}


def _close_runs(tx: Connection, workspace_id: str, run_ids: set[str], done: Ended) -> None:
    """Write the end of runs that have no open task; note those that only tasks in flight keep open."""
    finished = []
    for run_id in sorted(run_ids - done.runs_going_on):
        open_now = rows.open_states(tx, workspace_id, run_id)
        if not open_now:
            finished.append(run_id)
        elif all(state == "running" for state in open_now):
            # Two last tasks that end at once each see the other running: the caller looks again after its commit.
            done.maybe_done_runs.add(run_id)
    for row in runs.close_if_done(tx, workspace_id, finished):
        done.closed_runs.append(row["id"])
        log.append(
            tx,
            workspace_id,
            [{"project_id": row["project_id"], "run_id": row["id"], "type": EventType.RUN_FINISHED}],
        )
