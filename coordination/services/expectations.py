"""What tasks are expected to cost: from what jobs like them cost in their project, from prices, from their plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from coordination.domain.estimates import Estimate, estimate, history_key
from coordination.domain.pricing import Quote, Unknown
from coordination.store.queries import history

Quoting = Callable[[str, str, str], Quote | Unknown]
"""The price of a model: asked with the workspace, the project and the model's name."""


def estimator(quote: Quoting) -> Callable[[Connection, Sequence[Mapping[str, Any]]], dict[str, Estimate]]:
    """An estimate for each of some tasks, by id. Rows: id, workspace_id, project_id, work, options."""

    def estimates(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        if not rows:
            return {}
        keys = {row["id"]: (row["project_id"], history_key(row["work"])) for row in rows}
        samples = history.samples_of(tx, rows[0]["workspace_id"], list(keys.values()))
        return {
            row["id"]: estimate(
                row["work"],
                samples.get(keys[row["id"]], ()),
                stated=row["options"].get("estimate"),
                quote=partial(quote, row["workspace_id"], row["project_id"]),
            )
            for row in rows
        }

    return estimates


def _no_price(_workspace: str, _project: str, model: str) -> Unknown:
    return Unknown(f"nobody asked what {model} costs")


expected = estimator(_no_price)
"""The same without any prices."""
