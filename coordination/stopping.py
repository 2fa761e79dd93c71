"""Stop and start by the Python API.

stopped = co.stop(reason="it deletes the wrong files")
for one in stopped.attempts:
    print(one.project, one.task, one.words())
co.start()
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.base.errors import RedisUnavailable, Refused
from coordination.base.wording import excerpt
from coordination.domain.projects.projects import Project
from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt, StopResult
from coordination.flows.projects.stop_work import look, remember, start_work, stop_work
from coordination.runtime import Runtime
from coordination.store.queries.fleet import workers
from coordination.store.queries.projects import stops as rows

T = TypeVar("T")

PATIENCE = timedelta(seconds=60)
"""How long a stop waits for what runs, unless it is told."""

_POLL = 0.2
_TELL_EVERY = 2.0
_LONGEST_REASON = 500


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...

    def project(self, name: str) -> Project: ...


class Stopping:
    """Verbs of a connection that end everything of its workspace, or of a project, and let it go on."""

    def stop(
        self: _Connected,
        project: str | None = None,
        *,
        reason: str | None = None,
        now: bool = False,
        timeout: float | timedelta = PATIENCE,
    ) -> StopResult:
        """Stop the project, or the whole workspace (None); what was in flight, with what became of it.

        Nothing starts from the first commit on. What runs is asked to end, has its grace (*now*: none), and is handed
        back: ``start`` goes on with the same work. Waits until all has ended, at most *timeout* (seconds): see
        ``StopResult.silent``. Of what is stopped already it says so and looks again. Raises Refused in a job.
        """
        patience = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        if reason is not None and len(reason) > _LONGEST_REASON:
            raise Refused(f"A reason has at most {_LONGEST_REASON} characters, not {len(reason)}", field="reason")
        if reason is not None and not reason.isprintable():
            raise Refused(f"The reason {excerpt(reason)} is not one line of text", field="reason")
        project_id = None if project is None else self.project(project).id
        return _Round(self.runtime, project_id, reason, now).run(patience)

    def start(self: _Connected, project: str | None = None) -> StartResult:
        """Let what a stop of the project, or of the workspace (None), holds go on. Raises Refused in a job.

        A stop of the other kind stays: see ``StartResult.still``.
        """
        runtime = self.runtime
        project_id = None if project is None else self.project(project).id
        started, going = runtime.store.transact(
            lambda tx: start_work(tx, runtime.workspace_id, project_id, actor=runtime.actor)
        )
        for one in going:
            runtime.nudge(one)
        return started

    def stopped(self: _Connected, project: str | None = None) -> Stop | None:
        """The stop that holds the workspace, or else that project; None when nothing is stopped."""
        project_id = None if project is None else self.project(project).id
        with self.runtime.store.read() as tx:
            return rows.current(tx, self.runtime.workspace_id, project_id)


class _Round:
    """One call of ``stop``."""

    def __init__(self, runtime: Runtime, project_id: str | None, reason: str | None, at_once: bool) -> None:  # noqa: FBT001
        self._runtime = runtime
        self._project_id = project_id
        self._reason = reason
        self._at_once = at_once
        self._silent_after = runtime.settings.lease_ttl
        self._next_word = 0.0

    def run(self, patience: timedelta) -> StopResult:
        """Stop, and wait until nothing runs any more, or *patience* is over."""
        runtime, deadline = self._runtime, monotonic() + patience.total_seconds()
        stop, new = self._transact(self._begin)
        claiming: set[str] | None = None
        while True:
            with runtime.store.read() as tx:
                begun = rows.claiming(tx)
            claiming = begun if claiming is None else claiming & begun
            # After that: what these have opened until they ended is found.
            with runtime.store.read() as tx:
                found = look(tx, runtime.workspace_id, stop, silent_after=self._silent_after)
                helpless = not workers.live(tx, within=self._silent_after)
            if stop.in_flight is None or {one.key for one in found}.difference(stop.in_flight):
                stop = self._transact(partial(remember, workspace_id=runtime.workspace_id, stop=stop, found=found))
            stopped = StopResult(stop, new, found, claiming=len(claiming))
            running = [one for one in found if not one.ended]
            # Where no worker lives, nobody ends what a silent one has left.
            in_vain = helpless and not claiming and all(one.silent for one in running)
            if stopped.silent or in_vain or monotonic() >= deadline:
                return stopped
            self._tell(stop, running)
            time.sleep(min(_POLL, max(deadline - monotonic(), 0)))

    def _begin(self, tx: Connection) -> tuple[Stop, bool]:
        runtime = self._runtime
        return stop_work(
            tx,
            runtime.workspace_id,
            self._project_id,
            actor=runtime.actor,
            reason=self._reason,
            at_once=self._at_once,
        )

    def _transact(self, work: Callable[[Connection], T]) -> T:
        return self._runtime.store.transact(work, patience=timedelta(seconds=30))

    def _tell(self, stop: Stop, running: Sequence[StoppedAttempt]) -> None:
        """Ask whoever runs these to end them; now and then again, because a message may be lost.

        Without Redis workers learn it with their next heartbeat.
        """
        if self._runtime.nudges is None or monotonic() < self._next_word:
            return
        self._next_word = monotonic() + _TELL_EVERY
        with suppress(RedisUnavailable):
            self._runtime.nudges.stop([one.key for one in running], at_once=stop.at_once)
