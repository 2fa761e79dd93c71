"""What a task has printed and made, for those who ask, from any machine that reaches the database."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Protocol

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, NotFound
from coordination.domain.jobs import kind_in
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.last_lines import LastLines, last_lines
from coordination.domain.jobs.output import OutputChunk, OutputCursor, Stream
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import OPEN, TaskRecord
from coordination.runtime import Runtime
from coordination.store.queries.jobs import artifacts, output
from coordination.store.queries.tasks import attempts, outdated, tasks
from coordination.worktrees import TaskCheckout, checkout_of

_FIRST_POLL = 0.1
_LAST_POLL = 0.5
_REMARK = re.compile(r"\[(agent|chat|gate|merge|setup|usage|worktree)\b[^\]]*\] ")
_OUTAGE = 30.0  # seconds without the database that a follower rides out


class _Connected(Protocol):
    @property
    def runtime(self) -> Runtime: ...


class Produced:
    """The part of a task's handle that reads what its jobs have produced."""

    __slots__ = ()

    co: _Connected
    record: TaskRecord

    def logs(self, *, follow: bool = False, attempt: int | None = None) -> Iterator[OutputChunk]:
        """What its latest attempt (or that *attempt*) has printed so far; *follow*: and on as it comes.

        Following ends with the task, and goes on in the next attempt after a retry; with *attempt*, it ends with that.
        What a running job prints is there within about two seconds. Raises NotFound for an attempt that never was.
        """
        return _printed(self.co.runtime, self.record, follow=follow, attempt=attempt)

    def last_lines(self) -> tuple[LastLines, ...]:
        """The end of what its latest attempt printed, each stream apart; ``logs`` has all of it."""
        with self.co.runtime.store.read() as tx:
            found = attempts.latest(tx, self.co.runtime.workspace_id, self.record.id)
        return () if found is None else last_lines(self.record.work, found.output, found.log)

    def outdated(self) -> list[OutdatedTask]:
        """What its latest attempt was given by tasks that were done again since, while it runs or has completed."""
        with self.co.runtime.store.read() as tx:
            return outdated.of_tasks(tx, self.co.runtime.workspace_id, [self.record.id])

    def checkout(self, *, attempt: int | None = None) -> TaskCheckout:
        """The folder in which its newest attempt (or that *attempt*) works or has worked, with its variables.

        Raises NotFound where it is gone, or on another machine.
        """
        return checkout_of(self.co.runtime, self.record, attempt=attempt)

    def artifacts(self) -> list[Artifact]:
        """The files that its latest attempt left and that were kept, by path."""
        with self.co.runtime.store.read() as tx:
            return artifacts.of_task(tx, self.co.runtime.workspace_id, self.record.id)


def _printed(runtime: Runtime, task: TaskRecord, *, follow: bool, attempt: int | None) -> Iterator[OutputChunk]:
    number = task.attempt if attempt is None else attempt
    if (number == 0 and not follow) or number > task.attempt:
        which = "not been tried yet" if attempt is None else f"no attempt {attempt}"
        raise NotFound(f"{task.key} has {which}", hint=f"See: coord tasks show {task.key}")
    return _following(_Follower(runtime, task), number, follow=follow, only=attempt is not None)


def _following(follower: _Follower, number: int, *, follow: bool, only: bool) -> Iterator[OutputChunk]:
    pause = _FIRST_POLL
    while True:
        task, ended, found = follower.look(number)
        yield from found
        if not follow or (ended and (only or (task.attempt <= number and task.state not in OPEN))):
            return
        if ended and task.attempt > number:
            number += 1
            continue
        pause = _FIRST_POLL if found else min(pause * 1.5, _LAST_POLL)
        time.sleep(pause)


class _Follower:
    """Looks at one task again and again."""

    def __init__(self, runtime: Runtime, task: TaskRecord) -> None:
        self._runtime = runtime
        self._task = task
        self._reel = OutputCursor(0)
        self._number = 0
        self._told = 0  # the latest attempt of which everything is told
        self._away_since: float | None = None

    def look(self, number: int) -> tuple[TaskRecord, bool, list[OutputChunk]]:
        """The task, whether its attempt *number* has ended, and what is new of that."""
        try:
            found = self._look(number)
        except DatabaseUnavailable:
            self._away_since = self._away_since or monotonic()
            if monotonic() - self._away_since > _OUTAGE:
                raise
            return self._task, False, []
        self._away_since = None
        return found

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
            known = attempts.outcome_of(tx, workspace_id, task_id, number)
            ended = known is None or known[0] is not None
            chunks = output.of_attempt(tx, workspace_id, task_id, number, after=self._reel.after)
            found = list(self._reel.new(chunks))
            if ended and number != self._told:
                self._told = number
                tried = [one for one in attempts.of_task(tx, workspace_id, task_id) if one.number == number]
                if self._reel.begun:
                    whole = output.of_attempt(tx, workspace_id, task_id, number, after=0)
                    printed = "".join(text for chunk in whole for _, text in chunk.pieces)
                    found += [piece for one in tried for piece in _remarks(number, one.log or "", printed)]
                else:
                    found = [piece for one in tried for piece in _final(task, number, one.output, one.log)]
        return task, ended, found


def _remarks(number: int, log: str, printed: str) -> Iterator[OutputChunk]:
    """What the end of an attempt added to its log: what its gates said, what was merged, where its worktree is."""
    known = set(printed.splitlines())
    lines = log.splitlines()
    first = next((at for at, line in enumerate(lines) if _REMARK.match(line) and line not in known), len(lines))
    if more := "\n".join(lines[first:]).rstrip():
        yield OutputChunk(number, Stream.ERR, f"{more}\n" if not printed or printed.endswith("\n") else f"\n{more}\n")


def _final(task: TaskRecord, number: int, output: object, log: str | None) -> Iterator[OutputChunk]:
    """What is kept of an attempt that was over before anything of it was written."""
    if kind_in(task.work).output_name is None:
        if log:
            yield OutputChunk(number, Stream.OUT, log)
        return
    if isinstance(output, str) and output:
        yield OutputChunk(number, Stream.OUT, output if output.endswith("\n") else f"{output}\n")
    if log:
        yield OutputChunk(number, Stream.ERR, log)
