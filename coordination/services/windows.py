"""Which ready tasks may have a doorbell out: a window per project, so that a backlog never delays another project."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, RowMapping

from coordination.store.queries import ready, slots
from coordination.store.queries.ready import Ready
from coordination.store.queries.tasks import BATCH


def fill(  # noqa: C901 - one pass over the candidates
    tx: Connection, workspace_id: str, project_id: str, *, window: int, bundle: Callable[[str], int]
) -> list[Ready]:
    """Mark the best ready tasks as rung, as many as the window has room for; the caller rings after its commit.

    The window counts messages: *bundle* says how many tasks of a kind share one.
    """
    rung = ready.count_rung(tx, workspace_id, project_id)
    room = window - sum(number / bundle(kind) for kind, number in rung.items())
    if room <= 0:
        return []
    free = slots.free(tx, workspace_id, project_id)
    if free.get("project", 1) <= 0:
        return []
    full = [name for name, places in free.items() if places <= 0]
    full_agents = [name.removeprefix("agent:") for name in full if name.startswith("agent:")]
    full_keys = [name.removeprefix("key:") for name in full if name.startswith("key:")]

    def best(most: int) -> list[RowMapping]:
        most = min(most, free.get("project", most))
        return ready.next_unrung(tx, workspace_id, project_id, room=most, full_agents=full_agents, full_keys=full_keys)

    first = int(room) + 1
    found = best(first)
    if len(found) == first and (size := bundle(found[0]["kind"])) > 1:
        # Mostly one kind at a time is ready, so the best of them tells how far to look.
        found = best(int(room * size) + 1)
    chosen: list[Ready] = []
    for row in found:
        if room <= 0:
            break
        names = [f"agent:{row['agent']}", f"key:{row['concurrency_key']}"]
        if any(free.get(name, 1) <= 0 for name in names):
            continue
        for name in names:
            if name in free:
                free[name] -= 1
        room -= 1 / bundle(row["kind"])
        chosen.append(Ready(row["id"], row["attempt"], row["key"], row["title"], row["kind"]))
    for start in range(0, len(chosen), BATCH):
        ready.mark_rung(tx, workspace_id, [item.id for item in chosen[start : start + BATCH]])
    return chosen
