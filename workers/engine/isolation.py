"""Runs a suspected job in a worker process of its own, which runs nothing else: only if that one dies is it to blame.

A job is suspected when it had started on a worker that died (see ``domain.retry``). The worker that claimed it goes on
with everything else meanwhile; the thread that would have run it waits. The helper takes over the attempt, with its
lease, and ends with it. It dies with this process, as jobs do.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import sys
import threading
import uuid
from datetime import timedelta
from typing import Self

import structlog

from coordination.base import inherited_variables
from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.callers import HELPERS
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.store.queries.tasks import attempts
from workers.context import Context, scratch_of
from workers.leases.in_flight import InFlightAttempt
from workers.runners.base import Control, StopReason
from workers.runners.process import Launcher, Process, end_worker

log = structlog.get_logger()

MARKER = "COORD_HELPER_ID"
"""What a helper, and nobody else, has in its environment."""

JOB, HURRY = b"j", b"!"
"""How a message to a helper begins. After JOB come LENGTH bytes with the length of a pickled (claim, worker id)."""

LENGTH = 8

_MOST = 8
_START = timedelta(seconds=60)
_DESCRIPTOR_OF_THE_LOG = 2


class Isolation:
    """The helpers of one worker process, a few at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Without a sandbox: a helper is a worker, its jobs have theirs. The name begins as this worker's, by which
        # others find what it has started; tags are made of all of it, and must not be those of this worker's jobs.
        self._launcher = Launcher(f"{context.worker_id}{HELPERS}")
        self._places = threading.BoundedSemaphore(_MOST)

    def run(self, held: InFlightAttempt) -> AttemptEnd | None:
        """Let a helper run what this process holds, and wait. A result is for the caller to write; None: nothing is."""
        with self._places:
            if held.stop_reason is not None:  # while it waited for a place
                return AttemptEnd(held.stop_reason.outcome, error="ended before the job began", job_started=False)
            try:
                helper = _Helper(self._launcher)
            except OSError as error:
                return _not_begun(str(error))
            with helper, _Orders(self._context, helper) as orders:
                worker_id = helper.ready(_START)
                if worker_id is not None:
                    self._context.held.transfer(held, orders)
                    helper.hand_over(held.claim, self._context.worker_id)
                    self._wait(helper, held.claim)
                code = helper.process.end()
        if worker_id is None:
            return _not_begun(f"exit status {code}")
        return self._ended(held.claim, worker_id, code, orders.stop_reason)

    def close(self) -> None:
        """End what is left."""
        self._launcher.close()

    def _wait(self, helper: _Helper, claim: Claim) -> None:
        """Sleep until the helper has ended, or holds nothing any more and hangs."""
        idle = False
        while not helper.has_ended(self._context.terms.ttl):
            try:
                outcome, _ = self._standing(claim)
            except DatabaseUnavailable:
                continue
            if outcome is not None and idle:
                return
            idle = outcome is not None

    def _standing(self, claim: Claim) -> tuple[Outcome | None, str]:
        """How the attempt ended, None when it has not, and which worker holds it."""
        with self._context.store.read() as tx:
            found = attempts.outcome_of(tx, claim.workspace_id, claim.task_id, claim.attempt)
        return (Outcome.CANCELED, "") if found is None else found  # its run may have been deleted

    def _ended(self, claim: Claim, worker_id: str, code: int | None, stop: StopReason | None) -> AttemptEnd | None:
        context = self._context
        if code != 0:
            end_worker(worker_id)  # its warden does that, unless it died with it
            context.settling.settle_worker(scratch_of(context.settings), worker_id)
            alone = stop is None  # one that was told to hurry did not die of its job
            touched = context.store.transact(
                lambda tx: rescue_worker(tx, worker_id, alone=alone), patience=context.terms.ttl
            )
            log.warning("the process that ran a job alone has died", task=claim.key, attempt=claim.attempt, status=code)
            context.wake_projects(touched)
        if self._standing(claim) != (None, context.worker_id):
            return None
        if stop is not None:
            return AttemptEnd(stop.outcome, error="ended before the job began", job_started=False)
        return _not_begun(f"exit status {code}")


def _not_begun(why: str) -> AttemptEnd:
    return AttemptEnd(
        Outcome.DEFERRED, error=f"the process that was to run it alone did not start ({why})", job_started=False
    )


class _Orders(Control):
    """Tells the helper to hand its job back: this worker leaves, or all is stopped. Cancels reach it as any worker."""

    def __init__(self, context: Context, helper: _Helper) -> None:
        super().__init__(scratch=context.scratch)
        self._helper = helper

    def stop(self, reason: StopReason) -> None:
        if reason.outcome is Outcome.HANDED_BACK:
            super().stop(reason)
            self._helper.hurry()


class _Helper:
    """The helper as its parent sees it: it says its worker id when it can take a job, and is handed one."""

    def __init__(self, launcher: Launcher) -> None:
        self._writing = threading.Lock()
        theirs_in, self._to = os.pipe2(os.O_CLOEXEC)
        self._from, theirs_out = os.pipe2(os.O_CLOEXEC)
        try:
            self.process: Process = launcher.start(
                [sys.executable, "-P", "-m", "workers.process.isolated_worker"],
                markers=[MARKER],
                environment=inherited_variables.original_environment() | {MARKER: uuid.uuid4().hex},
                folder=os.getcwd(),  # noqa: PTH109 - where this worker stands
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=_DESCRIPTOR_OF_THE_LOG,
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def ready(self, patience: timedelta) -> str | None:
        """Its worker id, once it can take a job; None when it ended, or took too long."""
        deadline, text = monotonic() + patience.total_seconds(), b""
        waiter = select.poll()
        waiter.register(self._from, select.POLLIN)
        while not text.endswith(b"\n") and waiter.poll(max(deadline - monotonic(), 0) * 1000):
            if not (more := os.read(self._from, 100)):
                return None
            text += more
        return text.decode().strip() if text.endswith(b"\n") else None

    def hand_over(self, claim: Claim, worker_id: str) -> None:
        """Give it a claim of the worker *worker_id*."""
        data = pickle.dumps((claim, worker_id))
        self._send(JOB + len(data).to_bytes(LENGTH, "big") + data)

    def hurry(self) -> None:
        """Let it hand its job back now."""
        self._send(HURRY)

    def has_ended(self, patience: timedelta) -> bool:
        """Whether it has ended within *patience*."""
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        return bool(waiter.poll(patience.total_seconds() * 1000))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        with self._writing, contextlib.suppress(OSError):  # it has gone, which is seen next
            while view:
                view = view[os.write(self._to, view) :]

    def _close(self) -> None:
        os.close(self._to)
        os.close(self._from)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
