"""Runs importable functions in warm processes of their own: output is what one returns, the log what it prints.

A parameter named ``input`` or ``needs`` that the plan gives no argument for receives the task's input, or the results
of the tasks that it needs. Modules are looked up in the job's python_path, then in its folder, then as usual.

Short jobs go to a process in batches, because a trip to another process costs more than they do. A job that takes
longer than a moment is looked after alone, with its limits and its line to the worker; what waited behind it has not
begun, certainly not, and is left to the caller.
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
from typing import Any

from coordination.base.errors import Refused
from coordination.domain.jobs import PythonCall
from coordination.domain.jobs.output import Stream
from coordination.domain.plans.variants import REGISTERED_FUNCTIONS
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners import environment, usage_file
from workers.runners.base import BatchRun, Control
from workers.runners.interpreter import Interpreter, InterpreterAnswers, InterpreterKey, PrintedOutput
from workers.runners.pool import InterpreterPool
from workers.runners.process_watch import OutputReader, ProcessWatch
from workers.runners.program import can_be_entered, cannot_start, missing_folder, refused
from workers.runners.python_answer import result_of
from workers.runners.shared import Shared

_STALE = "stale"

_MOMENT = 0.02  # seconds in which a short job answers; after it a job is looked after alone
_STARTING = 2.0  # seconds in which a new process takes its first job; after it that job is looked after alone
_LONGEST_PAUSE = 0.001  # between looks at a batch: waking for every answer would cost more than the jobs
_MOST_SENT = 96_000  # bytes: a batch fits into the channel, so that the two sides never wait for each other


@dataclass(slots=True)
class _Job:
    """A job ready to be sent."""

    claim: Claim
    key: InterpreterKey
    request: str
    scratch: environment.Scratch


class PythonRunner:
    """Executes Python jobs."""

    def __init__(self, pool: InterpreterPool) -> None:
        self._pool = pool

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Call the function in a process of the pool."""
        if control.stop_reason is not None:
            return AttemptEnd(control.stop_reason.outcome, error=_STOPPED, job_started=False)
        job = _prepared(claim, control, _Places(), confined=self._pool.confined)
        if isinstance(job, AttemptEnd):
            return job
        with job.scratch:
            while True:
                try:
                    interpreter = self._pool.take(job.key)
                except (OSError, ValueError) as error:
                    return cannot_start(error)
                result = _Talk(self._pool, interpreter, [job], control.output_limit).alone(control)
                if result is not None:
                    return result

    def run_batch(self, claims: Sequence[Claim], board: BatchRun, *, settings: Control) -> int:
        """Call the functions one after the other, in a process of the pool, and report to *board*.

        Returns how many were dealt with, from the first on; the others have not begun. *settings* says where scratch
        files go and how much output is kept.
        """
        done, places = 0, _Places()
        while done < len(claims):
            batch: list[_Job] = []
            size = 0
            failed: AttemptEnd | None = None
            for claim in claims[done:]:
                job = _prepared(claim, settings, places, confined=self._pool.confined)
                if isinstance(job, AttemptEnd):
                    failed = job
                    break
                size += len(job.request)
                if batch and (job.key != batch[0].key or size > _MOST_SENT):
                    job.scratch.close()
                    break
                batch.append(job)
            if batch:
                ran = self._run(batch, done, board, settings)
                done += ran
                if ran < len(batch):
                    return done
            if failed is not None:
                board.ended(done, failed, timedelta(0))
                done += 1
        return done

    def _run(self, batch: list[_Job], first: int, board: BatchRun, settings: Control) -> int:
        """Run jobs of one key; how many were dealt with."""
        done = 0
        try:
            while done < len(batch):
                try:
                    interpreter = self._pool.take(batch[0].key)
                except (OSError, ValueError) as error:
                    board.ended(first + done, cannot_start(error), timedelta(0))
                    return done + 1
                talk = _Talk(self._pool, interpreter, batch[done:], settings.output_limit)
                ran, alone = talk.together(first + done, board)
                done += ran
                if alone:
                    return done
        finally:
            for job in batch:
                job.scratch.close()
        return done


class _Talk:
    """One batch with one interpreter, which goes back to the pool afterwards, or is ended."""

    def __init__(self, pool: InterpreterPool, interpreter: Interpreter, batch: Sequence[_Job], limit: int) -> None:
        self._pool = pool
        self._interpreter = interpreter
        self._fresh = interpreter.jobs == 0
        self._batch = batch
        self._limit = limit
        self._answers = InterpreterAnswers(limit)
        self._printed = PrintedOutput(interpreter.boundary, limit)
        self._done = 0
        self._sent = self._began = time.monotonic()  # when the batch was sent, and when the job that runs now began
        self._fit = True  # for another job
        self._took = 0.0  # seconds, of the job that was looked after alone

    def alone(self, control: Control) -> AttemptEnd | None:
        """Run the one job of this batch; None when it did not begin here and may be given to another process."""
        try:
            if not self._send(self._batch):
                return _NO_INTERPRETER if self._fresh else None
            return self._watch(self._batch[0], control)
        finally:
            self._give_back()

    def together(self, first: int, board: BatchRun) -> tuple[int, bool]:
        """Run the batch; how many jobs were dealt with, and whether the last of them had to be looked after alone."""
        try:
            if not self._send(self._batch):
                if self._fresh:
                    board.ended(first, _NO_INTERPRETER, timedelta(0))
                return int(self._fresh), False
            self._listen(first, board)
            if self._done == len(self._batch) or not self._fit:
                return self._done, False
            return self._single_out(first, board)
        finally:
            self._give_back()

    def _send(self, jobs: Sequence[_Job]) -> bool:
        self._began = time.monotonic()
        try:
            self._interpreter.send(self._batch[0].key.path, self._limit, [self._addressed(job) for job in jobs])
        except OSError:
            self._fit = False
            return False
        return True

    def _addressed(self, job: _Job) -> str:
        """The job's request; in a sandbox, its file of costs is where this process alone may write."""
        if (place := self._interpreter.place) is None:
            return job.request
        job.scratch.move_costs(place)
        request = json.loads(job.request)
        request["env"]["COORD_COSTS"] = job.scratch.costs
        return json.dumps(request)

    def _listen(self, first: int, board: BatchRun) -> None:
        """Hear answers while they come fast."""
        interpreter = self._interpreter
        channel = interpreter.channel
        waiter = select.poll()
        for fd in (channel, interpreter.output, interpreter.process.exit_fd, board.interrupted):
            waiter.register(fd, select.POLLIN)
        started = self._began
        while self._fit and self._done < len(self._batch):
            left = self._began + _MOMENT - time.monotonic()
            ready = {fd for fd, _ in waiter.poll(left * 1000)} if left > 0 else set()
            if not ready and self._is_starting():
                started = self._began = time.monotonic()
                continue
            if not ready or board.interrupted in ready or interpreter.process.exit_fd in ready:
                return
            if channel in ready and self._answers.read(channel) is OutputReader.CLOSED:
                return
            interpreter.read_output(self._printed)
            if self._answers.queue:
                self._take_answers(first, board)
                # Sleep a little, so that one look finds several answers.
                each = (self._began - started) / self._done if self._done else 0
                if pause := min(each * (len(self._batch) - self._done), _LONGEST_PAUSE):
                    time.sleep(pause)

    def _is_starting(self) -> bool:
        """Whether the process is new and has not begun any job: what its start takes says nothing about the jobs."""
        recent = self._fresh and time.monotonic() - self._sent < _STARTING
        return recent and self._interpreter.count_waiting() == len(self._batch)

    def _time_of(self, job: _Job, answer: Mapping[str, Any] | None) -> float:
        """Seconds that a job took, as it knows best, whatever this thread had to wait for.

        Where every job needs a new process (its environment is its own, or the last one left threads behind), the start
        is part of what a job costs.
        """
        alone = self._fresh and self._done == 0 and (job.key.env or answer is None or "retire" in answer)
        if answer is None or alone:
            return time.monotonic() - (self._sent if alone else self._began)
        return float(answer.get("took", 0.0))

    def _take_answers(self, first: int, board: BatchRun) -> None:
        self._began = time.monotonic()
        while self._answers.queue and self._fit and self._done < len(self._batch):
            answer = self._answers.queue.popleft()
            if answer["state"] == _STALE:
                self._fit = False
                return
            job = self._batch[self._done]
            result = result_of(None, answer, None, self._printed.take(), malformed=False)
            if answer.get("spent"):
                result = _with_usage(result, job)
            else:
                job.scratch.nothing_spent()
            took, size = timedelta(seconds=self._time_of(job, answer)), answer["size"] + len(result.log or "")
            board.ended(first + self._done, result, took, size)
            self._done += 1
            if "retire" in answer:
                self._interpreter.process.set_job_marker(_marker(job))
                self._fit = False

    def _single_out(self, first: int, board: BatchRun) -> tuple[int, bool]:
        """The job that runs takes longer, or somebody must stop: nothing else may begin, and that one goes on alone."""
        begun = len(self._batch) - self._interpreter.withdraw()
        # A job begins after the answer of the one before it was sent, so those answers are there.
        while self._done < begun - 1 and self._fit:
            if self._answers.read(self._interpreter.channel) is not OutputReader.DONE:
                break
            self._interpreter.read_output(self._printed)
            self._take_answers(first, board)
        if self._done == len(self._batch) or not self._fit:
            return self._done, False
        job = self._batch[self._done]
        with board.control(first + self._done, began=self._began) as control:
            if begun <= self._done:
                # Not even this one has begun: the process is only starting, or slow.
                if control.stop_reason is not None:
                    result: AttemptEnd | None = AttemptEnd(
                        control.stop_reason.outcome, error=_STOPPED, job_started=False
                    )
                elif not self._send([job]):
                    return self._done, False
                else:
                    result = self._watch(job, control)
            else:
                result = self._watch(job, control)
        if result is None:
            return self._done, False
        board.ended(first + self._done, result, timedelta(seconds=self._took))
        return self._done + 1, True

    def _watch(self, job: _Job, control: Control) -> AttemptEnd | None:
        """Look after one job that was sent; None when it did not begin here and may be given to another process."""
        interpreter = self._interpreter
        interpreter.process.set_job_marker(_marker(job))
        watch = ProcessWatch(
            interpreter.process,
            control,
            output={interpreter.output: self._printed.feed},
            answer=(interpreter.channel, self._answers.read),
            timeout=job.claim.timeout,
            stall_timeout=job.claim.stall_timeout,
            began=self._began,
            limits=control.limits_for(job.claim),
            glance=usage_file.UsageFile(job.scratch.costs, control.spent).look,
        )
        control.started(replace(interpreter.process.record, marker=_marker(job)))
        self._printed.show(partial(control.printed, Stream.OUT))
        interruption = None if self._answers.queue else watch.run()
        answer = self._answers.queue.popleft() if self._answers.queue else None
        self._took = self._time_of(job, answer)
        self._fit = interruption is None and answer is not None and "retire" not in answer and answer["state"] != _STALE
        if self._fit:
            interpreter.read_output(self._printed)
        else:
            interpreter.process.end()
            watch.drain()
        if interruption is None and answer is not None and answer["state"] == _STALE:
            return None
        if answer is not None and answer.get("traceback"):
            control.printed(Stream.OUT, answer["traceback"].encode(errors="replace"))
        result = result_of(
            interruption,
            answer,
            interpreter.process.exit_code,
            self._printed.take(),
            malformed=self._answers.malformed,
        )
        return _with_usage(result, job)

    def _give_back(self) -> None:
        if self._fit:
            self._pool.give_back(self._interpreter)
        else:
            self._interpreter.close()


_STOPPED = "stopped before it began"
_NO_INTERPRETER = AttemptEnd(Outcome.DEFERRED, error="The interpreter for the job ended before it took the job")


def _marker(job: _Job) -> str:
    return f"{environment.MARKER}={job.scratch.name}"


class _Places:
    """What jobs are, where they run and look for modules: found once for a batch, for that costs as much as a job."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], tuple[str, ...] | None] = {}
        self._of: Mapping[str, Any] | None = None
        self._work: PythonCall | None = None

    def work(self, claim: Claim) -> PythonCall:
        """The job; Refused when it is none. The claims of a statement share what says the same."""
        if self._work is None or self._of is not claim.work:
            work = claim.job
            if not isinstance(work, PythonCall):
                raise Refused(f"A {work.kind} job is not a Python call")
            self._of, self._work = claim.work, work
        return self._work

    def path(self, folder: str, claim: Claim) -> tuple[str, ...] | None:
        """The module path of a job in *folder*, or None when there is no such folder."""
        asked = (folder, claim.python_path)
        if asked not in self._known:
            self._known[asked] = self._look(folder, claim) if can_be_entered(folder) else None
        return self._known[asked]

    def _look(self, folder: str, claim: Claim) -> tuple[str, ...]:
        path = [os.path.join(folder, entry) for entry in claim.python_path]  # noqa: PTH118
        if claim.workdir is not None and claim.workdir not in path:
            path.append(claim.workdir)
        return tuple(path)


def _prepared(claim: Claim, control: Control, places: _Places, *, confined: bool) -> _Job | AttemptEnd:
    """The job as its interpreter wants it, or why it cannot be run."""
    try:
        work = places.work(claim)
    except Refused as refusal:
        return refused(refusal.sentence())
    scratch = environment.Scratch(control.scratch, claim)
    folder = claim.workdir or scratch.make_folder()
    path = places.path(folder, claim)
    if path is None:
        return missing_folder(folder)
    request = {
        "target": REGISTERED_FUNCTIONS.get(work.target, work.target),
        "args": dict(work.args),
        "input": claim.input,
        "needs": claim.needs,
        "env": environment.of_attempt(claim, scratch),
        "cwd": folder,
    }
    files = control.limits_for(claim).files
    # In a sandbox a process may write to one folder: a job with a folder of its own has a process of its own.
    place, env = folder if confined else claim.workdir, tuple(sorted(work.env.items())) if work.env else ()
    key = InterpreterKey(place, path, env, files, claim.workspace_id)
    return _Job(claim, key, json.dumps(request), scratch)


def _with_usage(result: AttemptEnd, job: _Job) -> AttemptEnd:
    spent, warnings = usage_file.read(job.scratch.costs)
    if not spent and not warnings:
        return result
    return replace(result, usage=spent, log=usage_file.with_warnings(result.log or "", warnings))


def make_runner(shared: Shared) -> PythonRunner:
    """Return the runner of this kind."""
    return PythonRunner(shared.pool)
