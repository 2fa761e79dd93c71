"""Stops and starts all work of a workspace or a project, for the Python API.

stopped = co.stop(reason="it deletes the wrong files")
for attempt in stopped.attempts:
    print(attempt.project, attempt.task, attempt.words())
co.start()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.base.errors import RedisUnavailable, Refused
from coordination.base.wording import excerpt
from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt, StopResult
from coordination.flows.projects import stop_work as flow
from coordination.runtime import Runtime
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import stops as rows

T = TypeVar("T")

PATIENCE = timedelta(seconds=60)
"""How long a stop waits for running jobs by default."""

_POLL = 0.2
_NOTIFY_EVERY = 2.0
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
    return _StopRequest(runtime, project_id, reason, now).run(patience)


def start_work(runtime: Runtime, project_id: str | None) -> StartResult:
    """End the stop of a project, or of the workspace. See ``Coordination.start``."""
    started, project_ids = runtime.transact(flow.start_work, project_id, actor=runtime.actor)
    for id_ in project_ids:
        runtime.wake_project(id_)
    return started


def current_stop(runtime: Runtime, project_id: str | None) -> Stop | None:
    """Return the stop of the workspace, or else that of the project; None when nothing is stopped."""
    return runtime.read(rows.find_covering, project_id)


class _StopRequest:
    """One call of ``stop``."""

    def __init__(self, runtime: Runtime, project_id: str | None, reason: str | None, at_once: bool) -> None:  # noqa: FBT001
        self._runtime = runtime
        self._project_id = project_id
        self._reason = reason
        self._at_once = at_once
        self._silent_after = runtime.settings.lease_ttl
        self._next_notice = 0.0

    def run(self, patience: timedelta) -> StopResult:
        """Stop, and wait until nothing is running or *patience* has elapsed."""
        runtime, deadline = self._runtime, monotonic() + patience.total_seconds()
        stop, new = self._transact(self._begin)
        claiming: set[str] | None = None
        while True:
            with runtime.store.read() as tx:
                open_now = rows.claiming_transactions(tx)
            claiming = open_now if claiming is None else claiming & open_now
            # Read the attempts only now, so that those opened by these transactions are included.
            with runtime.store.read() as tx:
                attempts = flow.list_attempts(tx, runtime.workspace_id, stop, silent_after=self._silent_after)
                has_worker = bool(workers.list_live(tx, within=self._silent_after))
            if stop.in_flight is None or {attempt.key for attempt in attempts}.difference(stop.in_flight):
                stop = self._transact(
                    partial(flow.record_in_flight, workspace_id=runtime.workspace_id, stop=stop, in_flight=attempts)
                )
            stopped = StopResult(stop, new, attempts, claiming=len(claiming))
            running = [attempt for attempt in attempts if not attempt.ended]
            # Without a living worker, nothing ends the attempts of a silent one.
            is_futile = not has_worker and not claiming and all(task.silent for task in running)
            if stopped.silent or is_futile or monotonic() >= deadline:
                return stopped
            self._notify(stop, running)
            time.sleep(min(_POLL, max(deadline - monotonic(), 0)))

    def _begin(self, tx: Connection) -> tuple[Stop, bool]:
        runtime = self._runtime
        return flow.stop_work(
            tx, runtime.workspace_id, self._project_id, actor=runtime.actor, reason=self._reason, at_once=self._at_once
        )

    def _transact(self, work: Callable[[Connection], T]) -> T:
        return self._runtime.store.transact(work, patience=timedelta(seconds=30))

    def _notify(self, stop: Stop, running: Sequence[StoppedAttempt]) -> None:
        """Send workers a message to end these attempts, repeatedly, because a message may be lost.

        Without Redis, workers notice the stop with their next heartbeat. Workers of a version without stops get a
        cancel message for attempts that may be repeated.
        """
        if self._runtime.wakeups is None or monotonic() < self._next_notice:
            return
        self._next_notice = monotonic() + _NOTIFY_EVERY
        with suppress(RedisUnavailable):
            self._runtime.wakeups.stop([task.key for task in running], at_once=stop.at_once)
