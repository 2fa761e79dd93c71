"""Statements on the output of running jobs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from coordination.domain.jobs.output import StoredChunk
from coordination.store.tables.jobs.output import output_chunks
from coordination.store.types import clean_json, iso

c = output_chunks.c

# A chunk replaces a shorter or an earlier one in its slot, never the other way round, because the end of an attempt may
# overtake an earlier write.
_NEWER = """
ON CONFLICT (task_id, attempt, slot) DO UPDATE
SET position = excluded.position, size = excluded.size, pieces = excluded.pieces, written_at = excluded.written_at
WHERE excluded.position > output_chunks.position
    OR excluded.position = output_chunks.position AND excluded.size > output_chunks.size
"""
_INSERT = "INSERT INTO output_chunks (task_id, attempt, slot, workspace_id, position, size, pieces, written_at)"

_POSTGRESQL = f"""
{_INSERT}
SELECT a.task_id, a.number, x.slot, a.workspace_id, x.position, x.size, x.pieces, now()
FROM json_to_recordset(%(rows)s::json) AS x (id uuid, n int, slot int, position bigint, size int, pieces json)
    JOIN attempts a ON a.task_id = ANY(ARRAY[x.id]) AND a.number = ANY(ARRAY[x.n])
WHERE a.workspace_id = %(workspace)s::uuid AND a.outcome IS NULL
ORDER BY a.task_id, a.number, x.slot
{_NEWER}
"""
_SQLITE = f"""
{_INSERT}
SELECT a.task_id, a.number, x.value ->> '$.slot', a.workspace_id, x.value ->> '$.position', x.value ->> '$.size',
    x.value -> '$.pieces', :now
FROM json_each(:rows) AS x
    JOIN attempts AS a ON a.task_id = x.value ->> '$.id' AND a.number = x.value ->> '$.n'
WHERE a.workspace_id = :workspace AND a.outcome IS NULL
{_NEWER}
"""


def write(tx: Connection, workspace_id: str, outputs: Sequence[tuple[str, int, Sequence[StoredChunk]]]) -> None:
    """Store the chunks of (task id, attempt, chunks), in one statement. Ignores attempts that have ended."""
    rows = json.dumps(
        [
            {
                "id": task_id,
                "n": number,
                "slot": chunk.slot,
                "position": chunk.position,
                "size": chunk.size,
                "pieces": clean_json(chunk.pieces),
            }
            for task_id, number, chunks in outputs
            for chunk in chunks
        ],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(_POSTGRESQL, {"workspace": workspace_id, "rows": rows})
    else:
        tx.exec_driver_sql(_SQLITE, {"workspace": workspace_id, "rows": rows, "now": iso(datetime.now(UTC))})


def of_attempt(tx: Connection, workspace_id: str, task_id: str, number: int, *, after: int = 0) -> list[StoredChunk]:
    """Return the chunks of an attempt's output from the position *after* on, in their order."""
    rows = tx.execute(
        select(c.slot, c.position, c.size, c.pieces)
        .where(c.workspace_id == workspace_id, c.task_id == task_id, c.attempt == number, c.position >= after)
        .order_by(c.position)
    )
    return [StoredChunk(row.slot, row.position, row.size, tuple(map(tuple, row.pieces))) for row in rows]
