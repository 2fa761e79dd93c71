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

from sqlalchemy import Connection

from coordination.domain.tasks.attempts import CONVERSATION, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.retry import AskPerson, Complete, Decision, GiveUp, RetryAfter, StayCanceled, Wait
from coordination.domain.tasks.task_limits import DEFERRAL_LIMIT, limit_reached
from coordination.domain.tasks.tasks import BlockReason, CancelCause, OnDependencyFailure, TaskState
from coordination.services.attempts.end_messages import event_of, payload_of
from coordination.services.attempts.records import Ended, Ending
from coordination.store.queries.jobs import artifacts
from coordination.store.queries.tasks import attempts as attempt_rows
from coordination.store.queries.tasks import completions, outdated, ready, runs, slots
from coordination.store.queries.tasks import dependencies as edges
from coordination.store.queries.tasks import events as log
from coordination.store.queries.tasks import tasks as rows
from coordination.store.queries.tasks.attempt_counters import CounterChanges


def end_attempts(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    endings: Sequence[Ending],
    *,
    close_runs: bool = True,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
    late: bool = False,
) -> Ended:
    """End these attempts. A fence that no longer holds changes nothing of its task.

    A task that would be tried again, and has reached a limit, waits for a person instead. Without *close_runs* the
    caller looks whether ``ended_in`` are done, when it knows what else it knows of them. *late*: see ``lock_ends``.
    """
    done = Ended()
    lock_ends(tx, workspace_id, endings, late=late)
    completing = [ending for ending in endings if isinstance(ending.decision, Complete)]
    others = [ending for ending in endings if not isinstance(ending.decision, Complete)]
    _complete(tx, workspace_id, project_id, completing, done)
    others = [_move_task(tx, workspace_id, ending, done, deferral_limit) for ending in others]
    held = [ending for ending in others if ending.fence in done.fences]
    if held:
        attempt_rows.close_many(tx, workspace_id, [_closing(ending) for ending in held])
        log.append(tx, workspace_id, [event_of(project_id, ending) for ending in held])
        outdated.wait_again(tx, workspace_id, [ending.fence for ending in held])
    for ending in endings:
        if ending.artifacts and ending.fence in done.fences:
            artifacts.add(tx, workspace_id, ending.task_id, ending.attempt, ending.artifacts)
        conversation = (ending.carried or {}).get(CONVERSATION)
        if (ending.details or conversation) and ending.fence in done.fences:
            attempt_rows.note_details(
                tx, workspace_id, ending.task_id, ending.attempt, ending.details, conversation=conversation
            )
    left = [name for one in endings if one.fence in done.fences for name in one.slots]
    stale = [one for one in endings if one.fence not in done.fences]
    attempt_rows.lock(tx, workspace_id, [one.fence for one in stale], nowait=True)  # after those that were completed
    for ending in stale:
        left += _close_fenced(tx, workspace_id, ending, done)
    dead = {ending.task_id: ending.key for ending in held if isinstance(ending.decision, GiveUp)}
    if dead:
        _propagate(tx, workspace_id, project_id, dead, done)
    slots.give_back(tx, workspace_id, project_id, left)
    done.closing |= {one.fence for one in endings if one.budgeted and one.fence in done.fences}
    done.ended_in = {one.run_id for one in endings if one.fence in done.fences and _is_final(one.decision)}
    if close_runs:
        close_ended_runs(tx, workspace_id, done)
    return done


def lock_ends(tx: Connection, workspace_id: str, endings: Sequence[Ending], *, late: bool = False) -> None:
    """Lock the tasks that these ends change, those that wait for them, and then the attempts.

    Nothing to do for completions alone: their one statement locks what it changes. *late*: the caller has locked
    tasks already, so that others are not waited for.
    """
    if all(isinstance(one.decision, Complete) for one in endings):
        return
    completing = [one.task_id for one in endings if isinstance(one.decision, Complete)]
    dead = [one.task_id for one in endings if isinstance(one.decision, GiveUp)]
    ids = {one.task_id for one in endings}.union(edges.waiting_children(tx, workspace_id, completing))
    rows.lock(tx, workspace_id, ids.union(edges.with_dependants(tx, workspace_id, dead)), nowait=late)
    attempt_rows.lock(tx, workspace_id, [one.fence for one in endings], nowait=late)


def close_ended_runs(
    tx: Connection, workspace_id: str, done: Ended, *, going_on: AbstractSet[str] = frozenset()
) -> None:
    """Write the end of the runs in ``done.ended_in`` that have no open task; those *going_on* surely have one."""
    _close_runs(tx, workspace_id, done.ended_in - going_on, done)


def cancel_tasks(
    tx: Connection, workspace_id: str, project_id: str, ids: Sequence[str], *, actor: str, why: str, late: bool = False
) -> tuple[list[tuple[str, int]], Ended]:
    """Cancel open tasks and what depends on them as it asks to be treated; (id, attempt) of those canceled by this.

    A running attempt keeps its lease and its slots until its worker has ended the job, or the lease runs out.
    *late*: as in ``lock_ends``.
    """
    done = Ended()
    rows.lock(tx, workspace_id, edges.with_dependants(tx, workspace_id, ids), nowait=late)
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
                    one.task_id, one.attempt, one.output, one.exit_code, one.error, one.log, payload_of(one)
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


def _move_task(tx: Connection, workspace_id: str, ending: Ending, done: Ended, deferral_limit: timedelta) -> Ending:
    """The ending, with what was decided in the end: a limit that is reached lets no attempt follow."""
    counts = _counts(ending)
    limit: str | None = None
    match ending.decision:
        case Complete():
            return ending
        case StayCanceled():
            # The attempt was told to stop, but its task was not canceled: a stray nudge must not strand it.
            moved, limit = _try_again(tx, workspace_id, _given_back(ending), timedelta(0), counts, deferral_limit)
        case RetryAfter(wait):
            moved, limit = _try_again(tx, workspace_id, ending, wait, counts, deferral_limit)
        case GiveUp():
            moved = rows.fail(
                tx,
                workspace_id,
                ending.task_id,
                attempt=ending.attempt,
                counts=counts,
                error=ending.error,
                carried=ending.carried,
            )
        case Wait(reasons):
            moved = rows.wait(
                tx,
                workspace_id,
                ending.task_id,
                attempt=ending.attempt,
                counts=replace(counts, failures=0, deferrals=0, own_end=True),
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
                counts=counts,
                reason=BlockReason.OUTCOME_UNKNOWN,
                error=ending.error,
            )
        case _ as never:
            assert_never(never)
    if moved:
        done.fences.add(ending.fence)
        done.held.add(ending.task_id)
    return ending if limit is None else replace(ending, decision=AskPerson(limit))


def _try_again(  # noqa: PLR0917 - called twice, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    ending: Ending,
    wait: timedelta,
    counts: CounterChanges,
    deferral_limit: timedelta,
) -> tuple[bool, str | None]:
    """Whether the attempt still held its task; and why no other may follow, if none may."""
    row = rows.queue_again(
        tx,
        workspace_id,
        ending.task_id,
        attempt=ending.attempt,
        wait=wait,
        counts=counts,
        error=ending.error,
        carried=ending.carried,
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


def _given_back(ending: Ending) -> Ending:
    """An attempt that stopped as canceled although it still held its task."""
    return replace(ending, error="it was stopped, although nobody had canceled it", carried=None)


def _counts(ending: Ending) -> CounterChanges:
    outcome = ending.outcome
    # A job that came to an end of its own, whatever it was, did not end its worker.
    unchanged = outcome in (Outcome.LOST, Outcome.HANDED_BACK, Outcome.CANCELED)
    return CounterChanges(
        failures=int(outcome in (Outcome.FAILED, Outcome.TIMED_OUT)),
        losses=ending.losses if unchanged else 0,
        deferrals=int(outcome is Outcome.DEFERRED),
        started=ending.began,
        lost=outcome is Outcome.LOST,
        own_end=outcome in (Outcome.FAILED, Outcome.TIMED_OUT),
        known_wait=ending.known_wait,
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
        "began": None if ending.began else False,
    }


def _close_fenced(tx: Connection, workspace_id: str, ending: Ending, done: Ended) -> list[str]:
    """The task has moved on. Only an attempt whose end nobody has written yet (a cancel in progress) is closed here.

    The slots that it held.
    """
    late = ending.outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DEFERRED)
    closing = replace(ending, outcome=Outcome.CANCELED, output=None) if late else ending
    before = attempt_rows.outcome_of(tx, workspace_id, ending.task_id, ending.attempt)
    if before is not None and before[0] is not None:
        # Our own commit, whose answer was lost. That an attempt is lost others write as well.
        if before[0] is ending.outcome and ending.outcome is not Outcome.LOST:
            done.recorded_before.add(ending.task_id)
        return []
    was_open, held_slots = attempt_rows.close_one(tx, workspace_id, _closing(closing))
    if was_open and ending.budgeted:
        done.closing.add(ending.fence)
    return held_slots


def _is_final(decision: Decision) -> bool:
    return isinstance(decision, Complete | GiveUp)


def _release(tx: Connection, workspace_id: str, project_id: str, satisfied: Counter[str], done: Ended) -> None:
    """Lower the counters of these locked children; the cost grows with them, never with the size of the store."""
    if not satisfied:
        return
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
        # They are locked, but for those that began to wait just now.
        rows.lock(tx, workspace_id, children, nowait=True)
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
