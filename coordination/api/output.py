"""Reads and follows the output of a task's attempts, from any machine that reaches the database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, NotFound
from coordination.domain.jobs import job_class
from coordination.domain.jobs.output import OutputChunk, OutputCursor, Stream
from coordination.domain.tasks.tasks import OPEN, TaskRecord
from coordination.runtime import Runtime
from coordination.store.queries.jobs import output
from coordination.store.queries.tasks import attempts, tasks

_FIRST_POLL = 0.1
_LAST_POLL = 0.5
_REMARK = re.compile(r"\[(agent|chat|gate|merge|setup|usage|worktree)\b[^\]]*\] ")
_OUTAGE = 30.0  # seconds that a follower waits for an unreachable database


def read_output(runtime: Runtime, task: TaskRecord, *, follow: bool, attempt: int | None) -> Iterator[OutputChunk]:
    """Yield the output of an attempt of *task*; *follow*: until it has ended. See ``TaskHandle.logs``."""
    number = task.attempt if attempt is None else attempt
    if (number == 0 and not follow) or number > task.attempt:
        missing = "no attempt yet" if attempt is None else f"no attempt {attempt}"
        raise NotFound(f"{task.key} has {missing}", hint=f"See: coord tasks show {task.key}")
    return _follow(_Follower(runtime, task), number, follow=follow, only=attempt is not None)


def _follow(follower: _Follower, number: int, *, follow: bool, only: bool) -> Iterator[OutputChunk]:
    pause = _FIRST_POLL
    while True:
        task, ended, chunks = follower.poll(number)
        yield from chunks
        if not follow or (ended and (only or (task.attempt <= number and task.state not in OPEN))):
            return
        if ended and task.attempt > number:
            number += 1
            continue
        pause = _FIRST_POLL if chunks else min(pause * 1.5, _LAST_POLL)
        time.sleep(pause)


class _Follower:
    """Polls the output of one task."""

    def __init__(self, runtime: Runtime, task: TaskRecord) -> None:
        self._runtime = runtime
        self._task = task
        self._cursor = OutputCursor(0)
        self._number = 0
        self._complete = 0  # the latest attempt whose output was returned to its end
        self._away_since: float | None = None

    def poll(self, number: int) -> tuple[TaskRecord, bool, list[OutputChunk]]:
        """Return the task, whether its attempt *number* has ended, and the new output of that attempt."""
        try:
            result = self._poll(number)
        except DatabaseUnavailable:
            self._away_since = self._away_since or monotonic()
            if monotonic() - self._away_since > _OUTAGE:
                raise
            return self._task, False, []
        self._away_since = None
        return result

    def _poll(self, number: int) -> tuple[TaskRecord, bool, list[OutputChunk]]:
        workspace_id, task_id = self._runtime.workspace_id, self._task.id
        if number != self._number:
            self._number, self._cursor = number, OutputCursor(number)
        with self._runtime.store.read() as tx:
            task = tasks.get(tx, workspace_id, task_id)
            if task is None:
                raise NotFound(f"There is no task {task_id}")
            if number == 0:
                return task, True, []
            outcome = attempts.outcome_of(tx, workspace_id, task_id, number)
            ended = outcome is None or outcome[0] is not None
            stored = output.of_attempt(tx, workspace_id, task_id, number, after=self._cursor.after)
            chunks = list(self._cursor.advance(stored))
            if ended and number != self._complete:
                self._complete = number
                records = [one for one in attempts.of_task(tx, workspace_id, task_id) if one.number == number]
                if self._cursor.has_read:
                    whole = output.of_attempt(tx, workspace_id, task_id, number, after=0)
                    printed = "".join(text for chunk in whole for _, text in chunk.pieces)
                    chunks += [chunk for record in records for chunk in _remarks(number, record.log or "", printed)]
                else:
                    chunks = [chunk for record in records for chunk in _final(task, number, record.output, record.log)]
        return task, ended, chunks


def _remarks(number: int, log: str, printed: str) -> Iterator[OutputChunk]:
    """Yield the lines about gates, merge and worktree that were added to the log at the end of an attempt."""
    printed_lines = set(printed.splitlines())
    lines = log.splitlines()
    first = next((at for at, line in enumerate(lines) if _REMARK.match(line) and line not in printed_lines), len(lines))
    if more := "\n".join(lines[first:]).rstrip():
        yield OutputChunk(number, Stream.ERR, f"{more}\n" if not printed or printed.endswith("\n") else f"\n{more}\n")


def _final(task: TaskRecord, number: int, output: object, log: str | None) -> Iterator[OutputChunk]:
    """Yield the stored output of an attempt that ended before any live output was stored."""
    if job_class(task.work).output_name is None:
        if log:
            yield OutputChunk(number, Stream.OUT, log)
        return
    if isinstance(output, str) and output:
        yield OutputChunk(number, Stream.OUT, output if output.endswith("\n") else f"{output}\n")
    if log:
        yield OutputChunk(number, Stream.ERR, log)
