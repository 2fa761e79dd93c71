"""Runs a suspected job alone in a helper process, so that only this job can be to blame if the process dies.

A job is suspected when it had started on a worker that died (see ``domain.retry``). Only the thread that would have run
the job waits meanwhile. The helper takes over the attempt with its lease and exits with it. It dies with this process.
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

import structlog

from coordination.base import inherited_variables
from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.callers import HELPERS
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.store.queries.tasks import attempts
from workers.context import Context, scratch_root
from workers.leases.in_flight import InFlightAttempt
from workers.runners.base import Control, StopReason
from workers.runners.process import Launcher, Process, end_worker

log = structlog.get_logger()

MARKER = "COORD_HELPER_ID"
"""A variable that only helpers have in their environment."""

JOB, HURRY = b"j", b"!"
"""First byte of a message to a helper. JOB is followed by the length (LENGTH bytes) of a pickled (claim, worker id)."""

LENGTH = 8

_MOST = 8
_START = timedelta(seconds=60)
_STDERR = 2


class Isolation:
    """Runs the helpers of one worker process, a few at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # No sandbox: a helper is a worker, and sandboxes its jobs itself. The name starts with this worker's id, by
        # which others find its processes; tags are made from the whole name and must differ from those of jobs.
        self._launcher = Launcher(f"{context.worker_id}{HELPERS}")
        self._slots = threading.BoundedSemaphore(_MOST)

    def run(self, in_flight: InFlightAttempt) -> AttemptEnd | None:
        """Run the attempt in a helper and wait. Return a result for the caller to write; None: the helper wrote it."""
        with self._slots:
            if in_flight.stop_reason is not None:  # stopped while it waited for a helper
                return AttemptEnd(in_flight.stop_reason.outcome, error="ended before the job began", job_started=False)
            try:
                helper = _Helper(self._launcher)
            except OSError as error:
                return _not_begun(str(error))
            with contextlib.closing(helper), _HandBackControl(self._context, helper) as control:
                worker_id = helper.ready(_START)
                if worker_id is not None:
                    self._context.in_flight.transfer(in_flight, control)
                    helper.hand_over(in_flight.claim, self._context.worker_id)
                    self._wait(helper, in_flight.claim)
                code = helper.process.end()
        if worker_id is None:
            return _not_begun(f"exit status {code}")
        return self._ended(in_flight.claim, worker_id, code, control.stop_reason)

    def close(self) -> None:
        """End the helpers."""
        self._launcher.close()

    def _wait(self, helper: _Helper, claim: Claim) -> None:
        """Sleep until the helper has exited, or hangs although its attempt has ended."""
        idle = False
        while not helper.has_ended(self._context.terms.ttl):
            try:
                outcome, _ = self._outcome_and_owner(claim)
            except DatabaseUnavailable:
                continue
            if outcome is not None and idle:
                return
            idle = outcome is not None

    def _outcome_and_owner(self, claim: Claim) -> tuple[Outcome | None, str]:
        """Return the attempt's outcome, None while it runs, and the id of the worker that owns it."""
        with self._context.store.read() as tx:
            row = attempts.outcome_of(tx, claim.workspace_id, claim.task_id, claim.attempt)
        return (Outcome.CANCELED, "") if row is None else row  # its run may have been deleted

    def _ended(self, claim: Claim, worker_id: str, code: int | None, stop: StopReason | None) -> AttemptEnd | None:
        context = self._context
        if code != 0:
            end_worker(worker_id)  # its warden does this, unless it died too
            context.settling.settle_worker(scratch_root(context.settings), worker_id)
            alone = stop is None  # a helper that was told to hand back did not die because of its job
            touched = context.store.transact(
                lambda tx: rescue_worker(tx, worker_id, alone=alone), patience=context.terms.ttl
            )
            log.warning("the helper process of a job died", task=claim.key, attempt=claim.attempt, status=code)
            context.wake_projects(touched)
        if self._outcome_and_owner(claim) != (None, context.worker_id):
            return None
        if stop is not None:
            return AttemptEnd(stop.outcome, error="ended before the job began", job_started=False)
        return _not_begun(f"exit status {code}")


def _not_begun(why: str) -> AttemptEnd:
    return AttemptEnd(Outcome.DEFERRED, error=f"its helper process did not start ({why})", job_started=False)


class _HandBackControl(Control):
    """Passes requests to hand the job back on to the helper. The helper receives cancels itself, as any worker."""

    def __init__(self, context: Context, helper: _Helper) -> None:
        super().__init__(scratch=context.scratch)
        self._helper = helper

    def stop(self, reason: StopReason) -> None:
        if reason.outcome is Outcome.HANDED_BACK:
            super().stop(reason)
            self._helper.hurry()


class _Helper:
    """The parent's side of a helper, which sends its worker id when it is ready for a job."""

    def __init__(self, launcher: Launcher) -> None:
        self._lock = threading.Lock()
        helper_stdin, self._to = os.pipe2(os.O_CLOEXEC)
        self._from, helper_stdout = os.pipe2(os.O_CLOEXEC)
        try:
            self.process: Process = launcher.start(
                [sys.executable, "-P", "-m", "workers.process.isolated_worker"],
                marker=MARKER,
                environment=inherited_variables.original_environment() | {MARKER: uuid.uuid4().hex},
                folder=os.getcwd(),  # noqa: PTH109 - the worker's own folder
                stdin=helper_stdin,
                stdout=helper_stdout,
                stderr=_STDERR,
            )
        except BaseException:
            self.close()
            raise
        finally:
            os.close(helper_stdin)
            os.close(helper_stdout)

    def ready(self, patience: timedelta) -> str | None:
        """Return the helper's worker id once it is ready; None when it has ended or takes too long."""
        deadline, text = monotonic() + patience.total_seconds(), b""
        waiter = select.poll()
        waiter.register(self._from, select.POLLIN)
        while not text.endswith(b"\n") and waiter.poll(max(deadline - monotonic(), 0) * 1000):
            if not (more := os.read(self._from, 100)):
                return None
            text += more
        return text.decode().strip() if text.endswith(b"\n") else None

    def hand_over(self, claim: Claim, worker_id: str) -> None:
        """Send a claim of the worker *worker_id* to the helper."""
        data = pickle.dumps((claim, worker_id))
        self._send(JOB + len(data).to_bytes(LENGTH, "big") + data)

    def hurry(self) -> None:
        """Tell the helper to hand its job back now."""
        self._send(HURRY)

    def has_ended(self, patience: timedelta) -> bool:
        """Return whether the helper has exited within *patience*."""
        waiter = select.poll()
        waiter.register(self.process.exit_fd, select.POLLIN)
        return bool(waiter.poll(patience.total_seconds() * 1000))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        with self._lock, contextlib.suppress(OSError):  # it has exited, which the caller detects
            while view:
                view = view[os.write(self._to, view) :]

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
