"""Which ready tasks may have a doorbell out: a window per project, so that a backlog never delays another project."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.store.queries import ready, slots
from coordination.store.queries.ready import Ready


def fill(tx: Connection, workspace_id: str, project_id: str, *, window: int) -> list[Ready]:
    """Mark the best ready tasks as rung, as many as the window has room for; the caller rings after its commit."""
    room = window - ready.count_rung(tx, workspace_id, project_id)
    if room <= 0:
        return []
    free = slots.free(tx, workspace_id, project_id)
    if free.get("project", 1) <= 0:
        return []
    full = [name for name, places in free.items() if places <= 0]
    found = ready.next_unrung(
        tx,
        workspace_id,
        project_id,
        room=min(room, free.get("project", room)),
        full_agents=[name.removeprefix("agent:") for name in full if name.startswith("agent:")],
        full_keys=[name.removeprefix("key:") for name in full if name.startswith("key:")],
    )
    chosen: list[Ready] = []
    for row in found:
        names = [f"agent:{row['agent']}", f"key:{row['concurrency_key']}"]
        if any(free.get(name, 1) <= 0 for name in names):
            continue
        for name in names:
            if name in free:
                free[name] -= 1
        chosen.append(Ready(row["id"], row["attempt"], row["key"], row["title"], row["kind"]))
    if chosen:
        ready.mark_rung(tx, workspace_id, [item.id for item in chosen])
    return chosen
