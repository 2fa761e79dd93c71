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
    return _follow(runtime, task, number, follow=follow, only=attempt is not None)


def _follow(runtime: Runtime, task: TaskRecord, number: int, *, follow: bool, only: bool) -> Iterator[OutputChunk]:
    cursor, pause = OutputCursor(number), _FIRST_POLL
    complete = 0  # the latest attempt whose output was returned to its end
    away_since: float | None = None
    while True:
        try:
            task, ended, chunks = _poll(runtime, task.id, number, cursor, complete=complete == number)
            away_since = None
        except DatabaseUnavailable:
            away_since = away_since or monotonic()
            if monotonic() - away_since > _OUTAGE:
                raise
            ended, chunks = False, []
        yield from chunks
        if not follow or (ended and (only or (task.attempt <= number and task.state not in OPEN))):
            return
        complete = number if ended else complete
        if ended and task.attempt > number:
            number += 1
            cursor = OutputCursor(number)
            continue
        pause = _FIRST_POLL if chunks else min(pause * 1.5, _LAST_POLL)
        time.sleep(pause)


def _poll(
    runtime: Runtime, task_id: str, number: int, cursor: OutputCursor, *, complete: bool
) -> tuple[TaskRecord, bool, list[OutputChunk]]:
    """Return the task, whether its attempt *number* has ended, and the new output of that attempt.

    *complete*: its output was returned to its end before.
    """
    workspace_id = runtime.workspace_id
    with runtime.store.read() as tx:
        task = tasks.get(tx, workspace_id, task_id)
        if task is None:
            raise NotFound(f"There is no task {task_id}")
        if number == 0:
            return task, True, []
        outcome = attempts.outcome_of(tx, workspace_id, task_id, number)
        ended = outcome is None or outcome[0] is not None
        chunks = list(cursor.advance(output.of_attempt(tx, workspace_id, task_id, number, after=cursor.after)))
        if ended and not complete:
            records = [record for record in attempts.of_task(tx, workspace_id, task_id) if record.number == number]
            if cursor.has_read:
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
