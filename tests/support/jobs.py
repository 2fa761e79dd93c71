"""Runs one job with a real runner, in a thread as a worker does, and records its reports meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from coordination.domain.tasks.attempts import AttemptEnd, Claim
from tests.support.speed import patience
from workers.attempt.folders import AttemptFolders
from workers.runners import orphan_reaper
from workers.runners.base import Control, ProcessRecord, StopReason
from workers.runners.registry import Runners

PATIENCE = patience(60.0)
FUNCTIONS = Path(__file__).parent / "job_functions"


def claim_of(work: Mapping[str, Any], **changes: Any) -> Claim:
    """Return a claim as a worker has it, for a job of a new task."""
    values: dict[str, Any] = {
        "task_id": str(uuid4()),
        "attempt": 1,
        "workspace_id": "workspace",
        "project_id": "project",
        "project": "shop",
        "run_id": "run",
        "session_id": None,
        "key": "fix",
        "title": "Fix it",
        "work": dict(work),
        "input": {},
        "needs": {},
        "agent": "dave/vc",
        "timeout": timedelta(seconds=PATIENCE),
        "stall_timeout": None,
        "workdir": None,
        "python_path": (str(FUNCTIONS),),
        "max_attempts": 1,
        "failures": 0,
        "deferrals": 0,
        "backoff": {},
        "repeatable": True,
    }
    return Claim(**(values | changes))


@dataclass
class Job:
    """A running job. ``moved`` is set at its first output; ``processes`` are those it reported."""

    claim: Claim
    control: Control
    moved: threading.Event
    processes: list[ProcessRecord]
    thread: threading.Thread = field(init=False)
    result: AttemptEnd | None = None

    def stop(self, reason: StopReason) -> None:
        """Ask it to end, once it has printed something."""
        assert self.moved.wait(PATIENCE)
        self.control.stop(reason)

    def end(self) -> AttemptEnd:
        """Wait for its result."""
        self.thread.join(PATIENCE)
        assert self.result is not None
        return self.result


class Bench:
    """Starts jobs, and finds the processes that they leave behind."""

    def __init__(self, runners: Runners, scratch: Path) -> None:
        self.runners = runners
        self.scratch = scratch
        scratch.mkdir()
        self.folders = AttemptFolders(scratch)

    def start(
        self,
        work: Mapping[str, Any],
        *,
        control: Mapping[str, Any] | None = None,
        stopped: StopReason | None = None,
        **changes: Any,
    ) -> Job:
        """Start a job in a thread of its own; *stopped*: it was asked to end before it began."""
        settings = {"cancel_grace": timedelta(seconds=20), "lost_grace": timedelta(milliseconds=100)}
        claim = claim_of(work, **changes)
        runner = self.runners.by_kind[claim.job_kind]
        moved, started = threading.Event(), list[ProcessRecord]()
        line = Control(
            scratch=self.scratch,
            on_start=started.append,
            on_progress=moved.set,
            **settings | dict(control or {}),
        )
        job = Job(claim, line, moved, started)

        if stopped is not None:
            job.control.stop(stopped)

        def run() -> None:
            with self.folders.make(claim) as job.control.scratch, job.control:
                job.result = runner.run(claim, job.control)

        job.thread = threading.Thread(target=run)
        job.thread.start()
        return job

    def run(self, work: Mapping[str, Any], **changes: Any) -> AttemptEnd:
        """Run a job from its beginning to its end."""
        return self.start(work, **changes).end()

    def left_behind(self) -> list[int]:
        """Return processes with the worker's marker, except interpreters that wait for a job."""
        idle = {child.process.record.pid for child in self.runners.pool._idle}
        remaining = orphan_reaper.find([os.fsencode(self.runners.launcher.marker)])
        return [pid for pid in remaining if session_of(pid) not in idle]  # bwrap is one more of its session


def session_of(pid: int) -> int | None:
    """Return the number of a process's session; None when it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
