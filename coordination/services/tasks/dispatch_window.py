"""Which ready tasks may have a doorbell out: a window per project, so that a backlog never delays another project."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, RowMapping

from coordination.services.holds import HOLDS
from coordination.services.holds.base import Openings
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask

_ROUNDING = 1e-9


def fill(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    *,
    window: int,
    bundle: Callable[[str], int],
    expected: int | None = None,
) -> list[ReadyTask]:
    """Mark the best ready tasks as rung, as many as the window has room for; the caller rings after its commit.

    The window counts messages: *bundle* says how many tasks of a kind share one, *expected* how many tasks a message
    probably holds, if the caller has an idea.
    """
    bundle = functools.cache(bundle)  # many rows, few kinds
    enqueued = ready.count_enqueued(tx, workspace_id, project_id)
    room = window - sum(number * _part(bundle(kind)) for kind, number in enqueued.items())
    if room <= 0:
        return []
    openings = [each for hold in HOLDS if (each := hold.openings(tx, workspace_id, project_id)) is not None]
    startable = min((each.most for each in openings if each.most is not None), default=None)
    if startable is not None and startable <= 0:
        return []
    where = [condition for each in openings for condition in each.where]

    def best(most: int) -> list[RowMapping]:
        wanted = most if startable is None else min(most, startable)
        return ready.next_to_enqueue(tx, workspace_id, project_id, room=wanted, where=where)

    first = int(room / _part(expected or 1)) + 1
    found = best(first)
    if expected is None and len(found) == first and (size := bundle(found[0]["kind"])) > 1:
        # Mostly one kind at a time is ready, so the best of them tells how far to look.
        found = best(int(room / _part(size)) + 1)
    chosen = _chosen(found, room, openings, bundle)
    if chosen:
        ready.mark_enqueued(tx, workspace_id, [item.id for item in chosen])
    return chosen


def _part(size: int) -> float:
    """What a task takes of the window when *size* of its kind share a message.

    A message of short tasks counts double: whoever takes it goes on with what is ready then, without another message.
    """
    return 1.0 if size == 1 else 2 / size


def _chosen(
    found: Sequence[RowMapping], room: float, openings: Sequence[Openings], bundle: Callable[[str], int]
) -> list[ReadyTask]:
    """As many of *found* as there is room for, and as may start."""
    chosen: list[ReadyTask] = []
    for row in found:
        if room <= 0:
            break
        if not all(each.take(row) for each in openings):
            continue
        room -= _part(bundle(row["kind"]))
        chosen.append(ready_of(row))
    return chosen


def grouped(
    found: Iterable[ReadyTask], bundle: Callable[[str], int], *, most: int | None = None
) -> list[list[ReadyTask]]:
    """One group a message: short tasks together, in their order, as many as fit; every other task alone.

    No more than *most* groups are made; what would need another one is left out.
    """
    size = functools.cache(bundle)
    groups: list[list[ReadyTask]] = []
    group: list[ReadyTask] = []
    room = 0.0
    for item in found:
        part = 1 / size(item.kind)
        if part == 1 or part > room + _ROUNDING:
            if len(groups) == most:
                break
            groups.append([item])
            if part < 1:
                group, room = groups[-1], 1.0 - part
        else:
            group.append(item)
            room -= part
    return groups


def shares(found: Sequence[ReadyTask], *, wanted: int, bundle: Callable[[str], int]) -> list[list[str]]:
    """The best of *found*, as far as they are known to be short: a message's worth for each of *wanted* threads."""
    size = functools.cache(bundle)
    short = itertools.takewhile(lambda item: size(item.kind) > 1, found)
    return [[item.id for item in group] for group in grouped(short, size, most=wanted)]


def ready_of(row: RowMapping) -> ReadyTask:
    """What a doorbell needs, of a row of ``ready.next_to_enqueue``."""
    return ReadyTask(row["id"], row["attempt"], row["key"], row["title"], row["kind"])
