"""Runs importable functions in warm interpreter processes: output is the return value, the log what they print.

A parameter named ``input`` or ``needs`` without an argument in the plan receives the task's input, or the results of
the tasks that it needs. Modules are looked up in the job's python_path, then in its folder, then as usual.

Short jobs are sent in batches, because a round trip to another process takes longer than they do. A job that takes
longer than a moment is watched alone, with its limits and a Control. The jobs behind it are withdrawn before they
begin, and the caller runs them.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, cast

from coordination.base.errors import Refused
from coordination.domain.jobs import PythonCall
from coordination.domain.jobs.output import Stream
from coordination.domain.plans.variants import REGISTERED_FUNCTIONS
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners import environment, usage_file
from workers.runners.base import BatchRun, Control
from workers.runners.interpreter import Interpreter, InterpreterAnswers, InterpreterKey, PrintedOutput
from workers.runners.pool import InterpreterPool
from workers.runners.process import death_sentence
from workers.runners.program import (
    TRY_LATER_STATUS,
    Interruption,
    OutputReader,
    ProcessWatch,
    can_be_entered,
    cannot_start,
    end_if_stopped,
    folder_problem,
    refusal_end,
)
from workers.runners.shared import RunnerResources

_STALE = "stale"
_OUTCOMES = {"completed": Outcome.COMPLETED, "deferred": Outcome.DEFERRED}

_MOMENT = 0.02  # seconds; a job that takes longer is watched alone
_STARTING = 2.0  # seconds that a new process has to begin its first job before that job is watched alone
_LONGEST_PAUSE = 0.001  # seconds between reads: waking up for every answer would cost more than the jobs
_MOST_SENT = 96_000  # bytes; a batch fits into the channel, so that no deadlock is possible


@dataclass(slots=True)
class _Job:
    """A job that is ready to be sent."""

    claim: Claim
    key: InterpreterKey
    request: str
    scratch: environment.Scratch


class PythonRunner:
    """Executes Python jobs."""

    def __init__(self, resources: RunnerResources) -> None:
        self._pool = resources.pool

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Call the function in a process of the pool and return how it ended."""
        if (stopped := end_if_stopped(control)) is not None:
            return stopped
        job = _prepare(claim, control, _PathCache(), confined=self._pool.confined)
        if isinstance(job, AttemptEnd):
            return job
        with job.scratch:
            while True:
                try:
                    interpreter = self._pool.take(job.key)
                except (OSError, ValueError) as error:
                    return cannot_start(error)
                result = _BatchCall(self._pool, interpreter, [job], control.output_limit).run_one(control)
                if result is not None:
                    return result

    def run_batch(self, claims: Sequence[Claim], batch_run: BatchRun, *, settings: Control) -> int:
        """Call the functions one after the other in a process of the pool; *batch_run* collects the results.

        Returns how many have ended, from the first on; the others have not begun. *settings* has the scratch folder
        and the output limit.
        """
        done, paths = 0, _PathCache()
        while done < len(claims):
            batch: list[_Job] = []
            size = 0
            failed: AttemptEnd | None = None
            for claim in claims[done:]:
                job = _prepare(claim, settings, paths, confined=self._pool.confined)
                if isinstance(job, AttemptEnd):
                    failed = job
                    break
                size += len(job.request)
                if batch and (job.key != batch[0].key or size > _MOST_SENT):
                    job.scratch.close()
                    break
                batch.append(job)
            if batch:
                ran = self._run(batch, done, batch_run, settings)
                done += ran
                if ran < len(batch):
                    return done
            if failed is not None:
                batch_run.collect(done, failed, timedelta(0))
                done += 1
        return done

    def _run(self, batch: list[_Job], first: int, batch_run: BatchRun, settings: Control) -> int:
        """Run jobs of one key; return how many have ended."""
        done = 0
        try:
            while done < len(batch):
                try:
                    interpreter = self._pool.take(batch[0].key)
                except (OSError, ValueError) as error:
                    batch_run.collect(first + done, cannot_start(error), timedelta(0))
                    return done + 1
                call = _BatchCall(self._pool, interpreter, batch[done:], settings.output_limit)
                ran, was_alone = call.run_batch(first + done, batch_run)
                done += ran
                if was_alone:
                    return done
        finally:
            for job in batch:
                job.scratch.close()
        return done


class _BatchCall:
    """Runs one batch in one interpreter, and returns the interpreter to the pool or ends it."""

    def __init__(self, pool: InterpreterPool, interpreter: Interpreter, batch: Sequence[_Job], limit: int) -> None:
        self._pool = pool
        self._interpreter = interpreter
        self._fresh = interpreter.jobs == 0
        self._batch = batch
        self._limit = limit
        self._answers = InterpreterAnswers(limit)
        self._printed = PrintedOutput(interpreter.boundary, limit)
        self._done = 0
        self._sent = self._began = time.monotonic()  # when the batch was sent, and when the running job began
        self._reusable = True
        self._took = 0.0  # seconds of the job that was watched alone

    def run_one(self, control: Control) -> AttemptEnd | None:
        """Run the only job of this batch; return None when it did not begin and another process may run it."""
        try:
            if not self._send(self._batch):
                return _NO_INTERPRETER if self._fresh else None
            return self._watch(self._batch[0], control)
        finally:
            self._give_back()

    def run_batch(self, first: int, batch_run: BatchRun) -> tuple[int, bool]:
        """Run the batch; return how many jobs have ended, and whether the last of them was watched alone."""
        try:
            if not self._send(self._batch):
                if self._fresh:
                    batch_run.collect(first, _NO_INTERPRETER, timedelta(0))
                return int(self._fresh), False
            self._read_answers(first, batch_run)
            if self._done == len(self._batch) or not self._reusable:
                return self._done, False
            return self._watch_running(first, batch_run)
        finally:
            self._give_back()

    def _send(self, jobs: Sequence[_Job]) -> bool:
        self._began = time.monotonic()
        try:
            self._interpreter.send(self._batch[0].key.path, self._limit, [self._request_of(job) for job in jobs])
        except OSError:
            self._reusable = False
            return False
        return True

    def _request_of(self, job: _Job) -> str:
        """Return the job's request. In a sandbox, its usage file is in a folder that only this process may write."""
        if (folder := self._interpreter.place) is None:
            return job.request
        job.scratch.move_costs(folder)
        request = json.loads(job.request)
        request["env"]["COORD_COSTS"] = job.scratch.costs
        return json.dumps(request)

    def _read_answers(self, first: int, batch_run: BatchRun) -> None:
        """Read answers while they arrive fast."""
        interpreter = self._interpreter
        channel = interpreter.channel
        waiter = select.poll()
        for fd in (channel, interpreter.output, interpreter.process.exit_fd, batch_run.interrupt_fd):
            waiter.register(fd, select.POLLIN)
        started = self._began
        while self._reusable and self._done < len(self._batch):
            left = self._began + _MOMENT - time.monotonic()
            ready = {fd for fd, _ in waiter.poll(left * 1000)} if left > 0 else set()
            if not ready and self._is_starting():
                started = self._began = time.monotonic()
                continue
            if not ready or batch_run.interrupt_fd in ready or interpreter.process.exit_fd in ready:
                return
            if channel in ready and self._answers.read(channel) is OutputReader.CLOSED:
                return
            interpreter.read_output(self._printed)
            if self._answers.queue:
                self._take_answers(first, batch_run)
                # Sleep a little, so that one read returns several answers.
                each = (self._began - started) / self._done if self._done else 0
                if pause := min(each * (len(self._batch) - self._done), _LONGEST_PAUSE):
                    time.sleep(pause)

    def _is_starting(self) -> bool:
        """Return whether the process is new and has not begun a job: its start time says nothing about the jobs."""
        recent = self._fresh and time.monotonic() - self._sent < _STARTING
        return recent and self._interpreter.count_waiting() == len(self._batch)

    def _time_of(self, job: _Job, answer: Mapping[str, Any] | None) -> float:
        """Return the seconds that a job took by its own measure, without the waiting time of this thread.

        Where each job needs a new process (own environment, or the last job left threads behind), the start counts.
        """
        alone = self._fresh and self._done == 0 and (job.key.env or answer is None or "retire" in answer)
        if answer is None or alone:
            return time.monotonic() - (self._sent if alone else self._began)
        return float(answer.get("took", 0.0))

    def _take_answers(self, first: int, batch_run: BatchRun) -> None:
        self._began = time.monotonic()
        while self._answers.queue and self._reusable and self._done < len(self._batch):
            answer = self._answers.queue.popleft()
            if answer["state"] == _STALE:
                self._reusable = False
                return
            job = self._batch[self._done]
            result = _end(None, answer, None, self._printed.take())
            if answer.get("spent"):
                result = _with_usage(result, job)
            else:
                job.scratch.skip_costs()
            took, size = timedelta(seconds=self._time_of(job, answer)), answer["size"] + len(result.log or "")
            batch_run.collect(first + self._done, result, took, size)
            self._done += 1
            if "retire" in answer:
                self._interpreter.process.set_job_marker(_marker(job))
                self._reusable = False

    def _watch_running(self, first: int, batch_run: BatchRun) -> tuple[int, bool]:
        """Withdraw the jobs that have not begun and watch the running one alone: it takes long, or a job must stop."""
        begun = len(self._batch) - self._interpreter.withdraw()
        # A job begins after the answer of the job before it was sent, so these answers have arrived.
        while self._done < begun - 1 and self._reusable:
            if self._answers.read(self._interpreter.channel) is not OutputReader.DONE:
                break
            self._interpreter.read_output(self._printed)
            self._take_answers(first, batch_run)
        if self._done == len(self._batch) or not self._reusable:
            return self._done, False
        job = self._batch[self._done]
        with batch_run.control(first + self._done, began=self._began) as control:
            is_waiting = begun <= self._done  # not even this job has begun: the process is starting, or slow
            result = end_if_stopped(control) if is_waiting else None
            if result is None:
                if is_waiting and not self._send([job]):
                    return self._done, False
                result = self._watch(job, control)
        if result is None:
            return self._done, False
        batch_run.collect(first + self._done, result, timedelta(seconds=self._took))
        return self._done + 1, True

    def _watch(self, job: _Job, control: Control) -> AttemptEnd | None:
        """Watch one sent job to its end; return None when it did not begin and another process may run it."""
        interpreter = self._interpreter
        interpreter.process.set_job_marker(_marker(job))
        watch = ProcessWatch(
            interpreter.process,
            job.claim,
            control,
            output={interpreter.output: self._printed.feed},
            answer=(interpreter.channel, self._answers.read),
            began=self._began,
            poll=usage_file.UsageFile(job.scratch.costs, control.record_usage).poll,
        )
        control.note_start(replace(interpreter.process.record, marker=_marker(job)))
        self._printed.show(partial(control.show_output, Stream.OUT))
        interruption = None if self._answers.queue else watch.run()
        answer = self._answers.queue.popleft() if self._answers.queue else None
        self._took = self._time_of(job, answer)
        self._reusable = (
            interruption is None and answer is not None and "retire" not in answer and answer["state"] != _STALE
        )
        if self._reusable:
            interpreter.read_output(self._printed)
        else:
            interpreter.process.end()
            watch.drain()
        if interruption is None and answer is not None and answer["state"] == _STALE:
            return None
        if answer is not None and answer.get("traceback"):
            control.show_output(Stream.OUT, answer["traceback"].encode(errors="replace"))
        printed, exit_code = self._printed.take(), interpreter.process.exit_code
        result = _end(interruption, answer, exit_code, printed, is_invalid=self._answers.malformed)
        return _with_usage(result, job)

    def _give_back(self) -> None:
        if self._reusable:
            self._pool.give_back(self._interpreter)
        else:
            self._interpreter.close()


_NO_INTERPRETER = AttemptEnd(Outcome.DEFERRED, error="The interpreter for the job ended before it took the job")


def _marker(job: _Job) -> str:
    return f"{environment.MARKER}={job.scratch.name}"


class _PathCache:
    """Parsed jobs and module paths, computed once for a batch because that takes as long as a job."""

    def __init__(self) -> None:
        self._paths: dict[tuple[str, tuple[str, ...]], tuple[str, ...] | None] = {}
        self._stored: Mapping[str, Any] | None = None
        self._call: PythonCall | None = None

    def call(self, claim: Claim) -> PythonCall:
        """Return the parsed job; raises Refused. Claims of one statement share equal jobs, so parse each job once."""
        if self._call is None or self._stored is not claim.work:
            self._stored, self._call = claim.work, cast("PythonCall", claim.job)
        return self._call

    def path(self, folder: str, claim: Claim) -> tuple[str, ...] | None:
        """Return the module path of a job in *folder*, or None when the folder cannot be entered."""
        key = (folder, claim.python_path)
        if key not in self._paths:
            path = [os.path.join(folder, entry) for entry in claim.python_path]  # noqa: PTH118
            path += [claim.workdir] if claim.workdir is not None and claim.workdir not in path else []
            self._paths[key] = tuple(path) if can_be_entered(folder) else None
        return self._paths[key]


def _prepare(claim: Claim, control: Control, paths: _PathCache, *, confined: bool) -> _Job | AttemptEnd:
    """Return the job with its request, or the end of one that cannot run."""
    try:
        call = paths.call(claim)
    except Refused as refusal:
        return refusal_end(refusal.sentence())
    scratch = environment.Scratch(control.scratch, claim)
    folder = claim.workdir or scratch.make_folder()
    path = paths.path(folder, claim)
    if path is None:
        return refusal_end(folder_problem(folder))
    request = {
        "target": REGISTERED_FUNCTIONS.get(call.target, call.target),
        "args": dict(call.args),
        "input": claim.input,
        "needs": claim.needs,
        "env": environment.attempt_variables(claim, scratch),
        "cwd": folder,
    }
    files = control.limits_for(claim).files
    # In a sandbox a process may write to one folder only, so a job with its own folder needs its own process.
    place, env = folder if confined else claim.workdir, tuple(sorted(call.env.items())) if call.env else ()
    key = InterpreterKey(place, path, env, files, claim.workspace_id)
    return _Job(claim, key, json.dumps(request), scratch)


def _end(
    interruption: Interruption | None,
    answer: Mapping[str, Any] | None,
    exit_code: int | None,
    printed: str,
    *,
    is_invalid: bool = False,
) -> AttemptEnd:
    """Return the end of a job. *exit_code*: of its ended process; *is_invalid*: its answer is unreadable."""
    if interruption is not None:
        return AttemptEnd(interruption.outcome, exit_code=exit_code, error=interruption.error, log=printed or None)
    if answer is not None:
        traceback = answer.get("traceback", "")
        separator = "\n" if printed and traceback and not printed.endswith("\n") else ""
        return AttemptEnd(
            _OUTCOMES.get(answer["state"], Outcome.FAILED),
            output=answer.get("output"),
            exit_code=answer.get("exit_code"),
            error=answer.get("error"),
            log=f"{printed}{separator}{traceback}" or None,
            retryable=answer.get("retryable", True),
        )
    outcome = Outcome.FAILED
    if is_invalid:
        error = "its process sent an invalid answer: something else wrote on its channel"
    elif exit_code == TRY_LATER_STATUS:
        outcome, error = Outcome.DEFERRED, f"exit status {exit_code}"
    elif exit_code is not None and exit_code < 0:
        error = death_sentence(exit_code)
    else:
        error = f"its process ended with exit status {exit_code} before the function returned"
    return AttemptEnd(outcome, exit_code=exit_code, error=error, log=printed or None)


def _with_usage(result: AttemptEnd, job: _Job) -> AttemptEnd:
    spent, warnings = usage_file.read_usage(job.scratch.costs)
    if not spent and not warnings:
        return result
    return replace(result, usage=spent, log=usage_file.with_warnings(result.log or "", warnings))
