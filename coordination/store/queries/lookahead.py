"""What follows claimed tasks in the graph: what a worker may run as soon as they have completed, before it writes.

Only tasks that nothing but their dependencies holds, that may be repeated, and that belong to projects without limits:
a crash makes all that was not written run again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection

from coordination.domain.attempts import Claim
from coordination.domain.tasks import BlockReason
from coordination.store.queries.budgets import BUDGETED
from coordination.store.queries.claims import COLUMNS, HELD, HOLDING, NOT_HELD, OWNERS, TEXTS, JsonTexts, claim_of


@dataclass(frozen=True, slots=True)
class Ahead:
    """A task that may be run ahead, and the tasks that it waits for; of their results, ``claim`` makes its claim."""

    task_id: str
    kind: str
    options: Mapping[str, Any]
    parents: tuple[str, ...]
    claim: Callable[[dict[str, dict[str, Any]]], Claim]


# What waits for more tasks than are looked at cannot be run, nor what lies behind it.
_WITHIN = "(SELECT pending FROM tasks c WHERE c.id = d.child_id) <= {bound}"
_QUERY = f"""
WITH RECURSIVE reach (id) AS (
    SELECT d.child_id FROM {{ids}} JOIN dependencies d ON d.parent_id = {{given}}
    WHERE d.satisfied_at IS NULL AND d.kind IN ({HOLDING}) AND {_WITHIN}
    UNION
    SELECT d.child_id FROM reach JOIN dependencies d ON d.parent_id = {{reached}}
    WHERE d.satisfied_at IS NULL AND d.kind IN ({HOLDING}) AND {_WITHIN}
), near AS {{materialized}} (SELECT id FROM reach LIMIT {{most}})
SELECT {{columns}},
    (SELECT {{collect}} FROM dependencies d WHERE d.child_id = t.id AND d.kind IN ({HOLDING})) AS parents
FROM near {{tasks}}
WHERE t.workspace_id = {{workspace}} AND t.state || '' = 'blocked' AND t.reasons = {int(BlockReason.DEPENDENCIES)}
    AND t.repeatable AND p.status NOT IN ({HELD})
    AND NOT EXISTS (SELECT 1 FROM slots s WHERE s.project_id = t.project_id)
    AND {NOT_HELD}
    AND NOT {BUDGETED}
"""
_POSTGRESQL = _QUERY.format(
    ids="unnest(%(ids)s::uuid[]) AS given (id)",
    given="ANY(ARRAY[given.id])",
    reached="ANY(ARRAY[reach.id])",
    materialized="MATERIALIZED",
    most="%(most)s",
    bound="%(bound)s",
    columns=re.sub(rf"\b({'|'.join(TEXTS)})\b(?=,)", r"\1::text", COLUMNS),
    tasks=f"CROSS JOIN LATERAL (SELECT * FROM tasks WHERE id = near.id OFFSET 0) AS t {OWNERS}",
    collect="string_agg(d.parent_id::text, ',')",
    workspace="%(workspace)s::uuid",
)
_SQLITE = _QUERY.format(
    ids="json_each(:ids) AS given",
    given="given.value",
    reached="reach.id",
    materialized="",
    most=":most",
    bound=":bound",
    columns=COLUMNS,
    tasks="JOIN tasks t ON t.id = near.id JOIN projects p ON p.id = t.project_id JOIN runs r ON r.id = t.run_id",
    collect="group_concat(d.parent_id)",
    workspace=":workspace",
)


def ahead_of(tx: Connection, workspace_id: str, ids: Sequence[str], *, most: int) -> list[Ahead]:
    """At most *most* of the tasks that *ids* lead to, nearest first, as far as they can be run ahead."""
    given = {"workspace": workspace_id, "most": most, "bound": most + len(ids)}
    if tx.dialect.name == "postgresql":
        rows = tx.exec_driver_sql(_POSTGRESQL, {**given, "ids": list(ids)})
    else:
        rows = tx.exec_driver_sql(_SQLITE, {**given, "ids": json.dumps(list(ids))})
    read = JsonTexts()
    made = partial(_claim, workspace_id, read)
    return [Ahead(row[0], row[21], read[row[19]], tuple(row[24].split(",")), partial(made, row)) for row in rows.all()]


def _claim(workspace_id: str, read: JsonTexts, row: Sequence[Any], needs: dict[str, dict[str, Any]]) -> Claim:
    return claim_of(workspace_id, row, read, needs=needs)
