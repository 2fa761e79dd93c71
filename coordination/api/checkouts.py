"""Finds the checkout of a task: its folder, and the variables of its job there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordination.base.errors import NotFound
from coordination.base.host import host
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION as CHECKOUT
from coordination.domain.jobs.checkouts import CheckoutKind, parse_checkout
from coordination.domain.jobs.preparation import copy_url, port_variables
from coordination.domain.tasks.attempts import Attempt
from coordination.domain.tasks.tasks import TaskRecord
from coordination.runtime import Runtime
from coordination.store.queries.fleet import host_leases
from coordination.store.queries.fleet.host_leases import LeaseKind
from coordination.store.queries.tasks import attempts, events

_MOST_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class TaskCheckout:
    """The folder of a task's job. ``attempt``: the owner of the worktree; None for the folder of a project.

    ``running``: whether that attempt still runs. ``variables``: the additional variables of its job.
    """

    path: Path
    attempt: int | None
    running: bool
    variables: dict[str, str]


def checkout_of(runtime: Runtime, task: TaskRecord, *, attempt: int | None = None) -> TaskCheckout:
    """Return the folder of *task*: of its newest attempt that still has one, or of that *attempt*.

    Raises NotFound where there is none on this machine.
    """
    variables = _plain_variables(task.work)
    if parse_checkout(task.options.get(CHECKOUT, "folder")).kind is not CheckoutKind.GIT_WORKTREE:
        if task.workdir is None or not Path(task.workdir).is_dir():
            raise NotFound(f"{task.key} has no folder on this machine", hint=f"See: coord tasks show {task.key}")
        return TaskCheckout(Path(task.workdir), None, running=False, variables=variables)
    with runtime.store.read() as tx:
        by_number = {attempt.number: attempt for attempt in attempts.of_task(tx, runtime.workspace_id, task.id)}
        log = events.tail(tx, runtime.workspace_id, task_id=task.id, limit=_MOST_EVENTS)
    worktrees = [
        (event.attempt, Path(str(event.payload["worktree"])))
        for event in log
        if event.attempt in by_number and event.payload and "worktree" in event.payload
    ]
    candidates = [pair for pair in worktrees if attempt in (None, pair[0])]
    if not candidates:
        which = "no attempt had a worktree yet" if attempt is None else f"attempt {attempt} had no worktree"
        raise NotFound(f"{task.key}: {which}", hint=f"See: coord tasks show {task.key}")
    for number, path in reversed(candidates):
        if number is not None and path.is_dir() and _is_here(by_number[number]):
            running = by_number[number].finished_at is None
            leased = _leased_variables(runtime, task, number) if running else {}
            return TaskCheckout(path, number, running=running, variables=variables | leased | _excludes(path))
    number, path = candidates[-1]
    raise _missing_worktree(task, by_number.get(number or 0), path)


def _leased_variables(runtime: Runtime, task: TaskRecord, attempt: int) -> dict[str, str]:
    """Return the variables with the ports and the database of a running attempt."""
    leases = runtime.read(host_leases.of_attempt, task.id, attempt)
    variables = port_variables([int(lease.name) for lease in leases if lease.kind is LeaseKind.PORT])
    database = parse_checkout(task.options[CHECKOUT]).prepare.database
    for lease in leases:
        if lease.kind is LeaseKind.DATABASE and database is not None:
            name = database.worker_variable
            if url := database.clone if name is None else os.environ.get(name):
                variables[database.variable] = copy_url(url, lease.name)
    return variables


def _missing_worktree(task: TaskRecord, attempt: Attempt | None, path: Path) -> NotFound:
    if attempt is not None and not _is_here(attempt):
        return NotFound(f"The worktree of {task.key} is on {attempt.host}, at {path}", hint="Run the command there")
    return NotFound(
        f"The worktree of {task.key} is gone: {path}",
        hint="It exists while its attempt runs, and after a failure for keep_failed or COORD_WORKTREES_KEPT",
    )


def _is_here(attempt: Attempt) -> bool:
    return attempt.host in (None, host())


def _plain_variables(work: Any) -> dict[str, str]:
    """Return the variables of the job in the plan, except those with results of other tasks."""
    return {name: value for name, value in work.get("env", {}).items() if "{{" not in value}


def _excludes(path: Path) -> dict[str, str]:
    """Return the variables with which git ignores files that were copied in, as in the job."""
    for folder in (path, *path.parents):
        try:
            link = (folder / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        except OSError:
            continue
        excludes = Path(link) / "coordination-excludes"
        if excludes.is_file():
            return {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "core.excludesFile",
                "GIT_CONFIG_VALUE_0": str(excludes),
            }
        break
    return {}
