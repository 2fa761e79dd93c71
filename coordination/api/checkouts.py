"""Finds the checkout of a task: its folder, and the variables of its job there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordination.base.errors import NotFound
from coordination.base.host import host
from coordination.domain.jobs.checkouts import STORED as CHECKOUT
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
    """The folder of a task's job. ``attempt``: the owner of the worktree; None for a folder of no attempt.

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
        tried = {one.number: one for one in attempts.of_task(tx, runtime.workspace_id, task.id)}
        story = events.tail(tx, runtime.workspace_id, task_id=task.id, limit=_MOST_EVENTS)
    worktrees = [
        (event.attempt, Path(str(event.payload["worktree"])))
        for event in story
        if event.attempt in tried and event.payload and "worktree" in event.payload
    ]
    chosen = [place for place in worktrees if attempt in (None, place[0])]
    if not chosen:
        which = "no attempt had a worktree yet" if attempt is None else f"attempt {attempt} had no worktree"
        raise NotFound(f"{task.key}: {which}", hint=f"See: coord tasks show {task.key}")
    for number, path in reversed(chosen):
        if number is not None and path.is_dir() and _is_here(tried[number]):
            running = tried[number].finished_at is None
            lent = _lent(runtime, task, number) if running else {}
            return TaskCheckout(path, number, running=running, variables=variables | lent | _excludes(path))
    number, path = chosen[-1]
    raise _gone(task, tried.get(number or 0), path)


def _lent(runtime: Runtime, task: TaskRecord, attempt: int) -> dict[str, str]:
    """Return the variables with the ports and the database of a running attempt."""
    with runtime.store.read() as tx:
        leases = host_leases.of_attempt(tx, runtime.workspace_id, task.id, attempt)
    variables = port_variables([int(lease.name) for lease in leases if lease.kind is LeaseKind.PORT])
    wanted = parse_checkout(task.options[CHECKOUT]).prepare.database
    for lease in leases:
        if lease.kind is LeaseKind.DATABASE and wanted is not None:
            name = wanted.worker_variable
            url = wanted.clone if name is None else os.environ.get(name)
            if url:
                variables[wanted.variable] = copy_url(url, lease.name)
    return variables


def _gone(task: TaskRecord, tried: Attempt | None, path: Path) -> NotFound:
    if tried is not None and not _is_here(tried):
        return NotFound(f"The worktree of {task.key} is on {tried.host}, at {path}", hint="Run the command there")
    return NotFound(
        f"The worktree of {task.key} is gone: {path}",
        hint="It stays while its attempt runs, and after a failure for keep_failed or COORD_WORKTREES_KEPT",
    )


def _is_here(tried: Attempt) -> bool:
    return tried.host in (None, host())


def _plain_variables(work: Any) -> dict[str, str]:
    """Return the variables of the job in the plan, except those with results of other tasks."""
    return {name: value for name, value in work.get("env", {}).items() if "{{" not in value}


def _excludes(path: Path) -> dict[str, str]:
    """Return the variables with which git ignores files that were copied in, as in the job."""
    for folder in (path, *path.parents):
        try:
            record = (folder / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        except OSError:
            continue
        excludes = Path(record) / "coordination-excludes"
        if excludes.is_file():
            return {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "core.excludesFile",
                "GIT_CONFIG_VALUE_0": str(excludes),
            }
        break
    return {}
