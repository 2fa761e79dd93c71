"""Reads and follows what the attempts of a task print, from any machine that reaches the database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, NotFound
from coordination.domain.jobs import kind_in
from coordination.domain.jobs.output import OutputChunk, OutputCursor, Stream
from coordination.domain.tasks.tasks import OPEN, TaskRecord
from coordination.runtime import Runtime
from coordination.store.queries.jobs import output
from coordination.store.queries.tasks import attempts, tasks

_FIRST_POLL = 0.1
_LAST_POLL = 0.5
_REMARK = re.compile(r"\[(agent|chat|gate|merge|setup|usage|worktree)\b[^\]]*\] ")
_OUTAGE = 30.0  # seconds without the database that a follower rides out


def printed(runtime: Runtime, task: TaskRecord, *, follow: bool, attempt: int | None) -> Iterator[OutputChunk]:
    """Yield what an attempt of *task* has printed; *follow*: until it has ended. See ``TaskHandle.logs``."""
    number = task.attempt if attempt is None else attempt
    if (number == 0 and not follow) or number > task.attempt:
        which = "not been tried yet" if attempt is None else f"no attempt {attempt}"
        raise NotFound(f"{task.key} has {which}", hint=f"See: coord tasks show {task.key}")
    return _following(_Follower(runtime, task), number, follow=follow, only=attempt is not None)


def _following(follower: _Follower, number: int, *, follow: bool, only: bool) -> Iterator[OutputChunk]:
    pause = _FIRST_POLL
    while True:
        task, ended, pieces = follower.look(number)
        yield from pieces
        if not follow or (ended and (only or (task.attempt <= number and task.state not in OPEN))):
            return
        if ended and task.attempt > number:
            number += 1
            continue
        pause = _FIRST_POLL if pieces else min(pause * 1.5, _LAST_POLL)
        time.sleep(pause)


class _Follower:
    """Polls the output of one task."""

    def __init__(self, runtime: Runtime, task: TaskRecord) -> None:
        self._runtime = runtime
        self._task = task
        self._reel = OutputCursor(0)
        self._number = 0
        self._complete = 0  # the latest attempt whose output was returned to its end
        self._away_since: float | None = None

    def look(self, number: int) -> tuple[TaskRecord, bool, list[OutputChunk]]:
        """Return the task, whether its attempt *number* has ended, and the new output of that attempt."""
        try:
            result = self._look(number)
        except DatabaseUnavailable:
            self._away_since = self._away_since or monotonic()
            if monotonic() - self._away_since > _OUTAGE:
                raise
            return self._task, False, []
        self._away_since = None
        return result

    def _look(self, number: int) -> tuple[TaskRecord, bool, list[OutputChunk]]:
        workspace_id, task_id = self._runtime.workspace_id, self._task.id
        if number != self._number:
            self._number, self._reel = number, OutputCursor(number)
        with self._runtime.store.read() as tx:
            task = tasks.get(tx, workspace_id, task_id)
            if task is None:
                raise NotFound(f"There is no task {task_id}")
            if number == 0:
                return task, True, []
            outcome = attempts.outcome_of(tx, workspace_id, task_id, number)
            ended = outcome is None or outcome[0] is not None
            chunks = output.of_attempt(tx, workspace_id, task_id, number, after=self._reel.after)
            pieces = list(self._reel.new(chunks))
            if ended and number != self._complete:
                self._complete = number
                tried = [one for one in attempts.of_task(tx, workspace_id, task_id) if one.number == number]
                if self._reel.begun:
                    whole = output.of_attempt(tx, workspace_id, task_id, number, after=0)
                    printed = "".join(text for chunk in whole for _, text in chunk.pieces)
                    pieces += [piece for one in tried for piece in _remarks(number, one.log or "", printed)]
                else:
                    pieces = [piece for one in tried for piece in _final(task, number, one.output, one.log)]
        return task, ended, pieces


def _remarks(number: int, log: str, printed: str) -> Iterator[OutputChunk]:
    """Yield what the end of an attempt added to its log: gates, merge, worktree."""
    printed_lines = set(printed.splitlines())
    lines = log.splitlines()
    first = next((at for at, line in enumerate(lines) if _REMARK.match(line) and line not in printed_lines), len(lines))
    if more := "\n".join(lines[first:]).rstrip():
        yield OutputChunk(number, Stream.ERR, f"{more}\n" if not printed or printed.endswith("\n") else f"\n{more}\n")


def _final(task: TaskRecord, number: int, output: object, log: str | None) -> Iterator[OutputChunk]:
    """Yield the stored output of an attempt that ended before any live output was stored."""
    if kind_in(task.work).output_name is None:
        if log:
            yield OutputChunk(number, Stream.OUT, log)
        return
    if isinstance(output, str) and output:
        yield OutputChunk(number, Stream.OUT, output if output.endswith("\n") else f"{output}\n")
    if log:
        yield OutputChunk(number, Stream.ERR, log)
