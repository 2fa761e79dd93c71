"""``python -m workers.process.isolated_worker``: a worker process that runs one claimed job and ends.

A worker starts it (see ``isolation``) and sends the claim to its standard input; when that closes, it hands the task
back. It prints its worker id in one line when it is ready.
"""

from __future__ import annotations

from coordination.base.host import host, keep_private

if __name__ == "__main__":
    keep_private()  # before the imports, which take a second, in which another job could read the environment

import os
import pickle
import signal
import sys
import threading
from functools import partial

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError
from coordination.callers import check_caller
from coordination.domain.tasks.attempts import Claim
from coordination.settings import load_settings
from coordination.store.queries.tasks import attempts
from workers.engine.isolation import JOB, LENGTH
from workers.process import lifecycle
from workers.process.log_format import configure_logging
from workers.runners import orphan_reaper
from workers.runners.base import StopReason

_CHUNK = 1 << 16


def main() -> int:
    """Run the job. Return 0 when its end is written or there was nothing to do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lifecycle.ignore_signal)  # jobs would inherit SIG_IGN, but not a handler
    answers = os.dup(1)
    os.dup2(2, 1)  # prints go to the log
    try:
        check_caller(load_settings().database_url, helper=True)  # before the parent's tag is dropped
        # Otherwise the warden of its jobs, which must outlive it, would count as a process of its parent.
        orphan_reaper.drop_tag()
        from workers.app import app

        app.set_current()
        configure_logging()
        process = lifecycle.begin(f"alone@{host()}:{os.getpid()}", slots=1, alone=True)
    except CoordinationError as error:
        sys.stderr.write(f"coord worker: {error.sentence()}\n")
        return 2
    os.write(answers, f"{process.context.worker_id}\n".encode())
    os.close(answers)
    if (message := _message()) is not None:
        _run(process, *message)
    lifecycle.end()
    return 0


def _run(process: lifecycle.WorkerProcess, claim: Claim, former_id: str) -> None:
    context, sent = process.context, monotonic()
    take_over = partial(attempts.take_over, former_id=former_id, worker_id=context.worker_id, lease=context.terms.ttl)
    if context.store.transact(lambda tx: take_over(tx, claim.workspace_id, claim.task_id, claim.attempt)):
        threading.Thread(target=_stop_with_parent, args=(process,), name="coord-hurry", daemon=True).start()
        process.executor.run_claim(claim, sent=sent)


def _message() -> tuple[Claim, str] | None:
    if _read(1) != JOB:  # the parent is shutting down or has ended
        return None
    length = int.from_bytes(_read(LENGTH), "big")
    data = _read(length)
    return pickle.loads(data) if data and len(data) == length else None  # noqa: S301 - sent by our own parent


def _read(size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (more := os.read(0, min(size - len(data), _CHUNK))):
        data += more
    return bytes(data)


def _stop_with_parent(process: lifecycle.WorkerProcess) -> None:
    """Stop the job when the parent writes a byte, because it shuts down, or closes the pipe, because it has ended."""
    os.read(0, 1)
    process.context.draining.set()
    process.context.in_flight.stop_all(StopReason.SHUTDOWN)


if __name__ == "__main__":
    sys.exit(main())
