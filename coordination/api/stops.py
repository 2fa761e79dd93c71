"""Stops and starts all work of a workspace or a project, for the Python API.

stopped = co.stop(reason="it deletes the wrong files")
for attempt in stopped.attempts:
    print(attempt.project, attempt.task, attempt.words())
co.start()
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from functools import partial

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.base.errors import RedisUnavailable, Refused
from coordination.base.wording import excerpt
from coordination.domain.projects.stops import StartResult, Stop, StopResult
from coordination.flows.projects import stop_work as flow
from coordination.runtime import Runtime
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import stops as rows

PATIENCE = timedelta(seconds=60)
"""How long a stop waits for running jobs by default."""

_POLL = 0.2
_NOTIFY_EVERY = 2.0
_OUTAGE = timedelta(seconds=30)  # how long a change waits for the database
_LONGEST_REASON = 500


def stop_and_wait(
    runtime: Runtime, project_id: str | None, *, reason: str | None, now: bool, timeout: float | timedelta
) -> StopResult:
    """Stop a project, or the workspace, and wait until nothing runs. See ``Coordination.stop``."""
    patience = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
    if reason is not None and len(reason) > _LONGEST_REASON:
        raise Refused(f"A reason has at most {_LONGEST_REASON} characters, not {len(reason)}", field="reason")
    if reason is not None and not reason.isprintable():
        raise Refused(f"The reason {excerpt(reason)} is not one line of text", field="reason")
    deadline, silent_after, next_notice = monotonic() + patience.total_seconds(), runtime.settings.lease_ttl, 0.0

    def begin(tx: Connection) -> tuple[Stop, bool]:
        return flow.stop_work(tx, runtime.workspace_id, project_id, actor=runtime.actor, reason=reason, at_once=now)

    stop, new = runtime.store.transact(begin, patience=_OUTAGE)
    claiming: set[str] | None = None
    while True:
        with runtime.store.read() as tx:
            open_now = rows.claiming_transactions(tx)
        claiming = open_now if claiming is None else claiming & open_now
        # Read the attempts only now, so that those opened by these transactions are included.
        with runtime.store.read() as tx:
            attempts = flow.list_attempts(tx, runtime.workspace_id, stop, silent_after=silent_after)
            has_worker = bool(workers.list_live(tx, within=silent_after))
        if stop.in_flight is None or {attempt.key for attempt in attempts}.difference(stop.in_flight):
            record = partial(flow.record_in_flight, workspace_id=runtime.workspace_id, stop=stop, in_flight=attempts)
            stop = runtime.store.transact(record, patience=_OUTAGE)
        result = StopResult(stop, new, attempts, claiming=len(claiming))
        running = [attempt for attempt in attempts if not attempt.ended]
        # Without a living worker, nothing ends the attempts of a silent one.
        is_futile = not has_worker and not claiming and all(task.silent for task in running)
        if result.silent or is_futile or monotonic() >= deadline:
            return result
        if runtime.wakeups is not None and monotonic() >= next_notice:
            # Repeated, because a message may be lost. Without Redis, workers notice the stop with their next heartbeat.
            # Workers of a version without stops get a cancel message for attempts that may be repeated.
            next_notice = monotonic() + _NOTIFY_EVERY
            with suppress(RedisUnavailable):
                runtime.wakeups.stop([task.key for task in running], at_once=stop.at_once)
        time.sleep(min(_POLL, max(deadline - monotonic(), 0)))


def start_work(runtime: Runtime, project_id: str | None) -> StartResult:
    """End the stop of a project, or of the workspace. See ``Coordination.start``."""
    started, project_ids = runtime.transact(flow.start_work, project_id, actor=runtime.actor)
    for id_ in project_ids:
        runtime.wake_project(id_)
    return started


def current_stop(runtime: Runtime, project_id: str | None) -> Stop | None:
    """Return the stop of the workspace, or else that of the project; None when nothing is stopped."""
    return runtime.read(rows.find_covering, project_id)
