"""The dispatch window: how many messages a project may have enqueued, so that its backlog delays no other project."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection, RowMapping

from coordination.services.holds import WITH_PLACES
from coordination.services.holds.base import FreePlaces
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask

_ROUNDING = 1e-9


def fill_window(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    *,
    window: int,
    bundle: Callable[[str], int],
    expected: int | None = None,
) -> list[ReadyTask]:
    """Mark the best ready tasks as enqueued, as many as fit into the window; the caller publishes after its commit.

    The window counts messages. *bundle* returns how many tasks of a kind share a message; *expected* is the caller's
    guess of that number.
    """
    bundle = functools.cache(bundle)  # many rows, few kinds
    enqueued = ready.count_enqueued(tx, workspace_id, project_id)
    room = window - sum(number * _part(bundle(kind)) for kind, number in enqueued.items())
    if room <= 0:
        return []
    places_by_hold = (hold.find_free_places(tx, workspace_id, project_id) for hold in WITH_PLACES)
    free_places = [places for places in places_by_hold if places is not None]
    startable = min((each.limit for each in free_places if each.limit is not None), default=None)
    if startable is not None and startable <= 0:
        return []
    where = [condition for each in free_places for condition in each.conditions]

    def best(most: int) -> list[RowMapping]:
        limit = most if startable is None else min(most, startable)
        return ready.next_to_enqueue(tx, workspace_id, project_id, room=limit, where=where)

    first = int(room / _part(expected or 1)) + 1
    rows = best(first)
    if expected is None and len(rows) == first and (size := bundle(rows[0]["kind"])) > 1:
        # Mostly one kind at a time is ready, so the best task shows how many fit.
        rows = best(int(room / _part(size)) + 1)
    chosen = _choose(rows, room, free_places, bundle)
    if chosen:
        ready.mark_enqueued(tx, workspace_id, [item.id for item in chosen])
    return chosen


def _part(size: int) -> float:
    """Return the share of the window that a task takes when *size* tasks of its kind share a message.

    A message of short tasks counts double: its worker continues with other ready tasks without further messages.
    """
    return 1.0 if size == 1 else 2 / size


def _choose(
    rows: Sequence[RowMapping], room: float, free_places: Sequence[FreePlaces], bundle: Callable[[str], int]
) -> list[ReadyTask]:
    """Return the best of *rows* that fit into the window and have free places."""
    chosen: list[ReadyTask] = []
    for row in rows:
        if room <= 0:
            break
        if not all(each.take(row) for each in free_places):
            continue
        room -= _part(bundle(row["kind"]))
        chosen.append(parse_ready_task(row))
    return chosen


def group_by_message(
    tasks: Iterable[ReadyTask], bundle: Callable[[str], int], *, most: int | None = None
) -> list[list[ReadyTask]]:
    """Return one group per message: short tasks together, in their order, as many as fit; every other task alone.

    Tasks beyond *most* groups are left out.
    """
    size = functools.cache(bundle)
    groups: list[list[ReadyTask]] = []
    group: list[ReadyTask] = []
    room = 0.0
    for item in tasks:
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


def split_into_shares(tasks: Sequence[ReadyTask], *, threads: int, bundle: Callable[[str], int]) -> list[list[str]]:
    """Return ids of the leading short tasks of *tasks*, one message's worth for each of *threads*."""
    size = functools.cache(bundle)
    short = itertools.takewhile(lambda item: size(item.kind) > 1, tasks)
    return [[item.id for item in group] for group in group_by_message(short, size, most=threads)]


def parse_ready_task(row: RowMapping) -> ReadyTask:
    """Return the task of a row of ``ready.next_to_enqueue``."""
    return ReadyTask(row["id"], row["attempt"], row["key"], row["title"], row["kind"])
