"""What tasks are expected to cost: from what jobs like them cost in their project, from prices, from their plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection

from coordination.base.clock import monotonic
from coordination.domain.money.estimates import Estimate, JobSample, estimate, history_key
from coordination.domain.money.pricing import Quote, UnknownPrice
from coordination.store.queries.forecast import job_history

_REMEMBERED = 10_000

Quoting = Callable[[str, str, str], Quote | UnknownPrice]
"""The price of a model: asked with the workspace, the project and the model's name."""


def estimator(
    quote: Quoting, *, fresh: timedelta = timedelta(0)
) -> Callable[[Connection, Sequence[Mapping[str, Any]]], dict[str, Estimate]]:
    """An estimate for each of some tasks, by id. Rows: id, workspace_id, project_id, work, options.

    What earlier jobs cost is asked of the store again when it was asked longer ago than *fresh*.
    """
    known: dict[tuple[str, str], tuple[float, tuple[JobSample, ...]]] = {}

    def samples_of(
        tx: Connection, workspace_id: str, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[JobSample, ...]]:
        now = monotonic()
        oldest = now - fresh.total_seconds()
        missing = [key for key in dict.fromkeys(keys) if key not in known or known[key][0] <= oldest]
        if missing:
            found = job_history.samples_of(tx, workspace_id, missing)
            if len(known) > _REMEMBERED:
                known.clear()
            known.update({key: (now, found.get(key, ())) for key in missing})
        return {key: known[key][1] for key in keys if key in known}

    def estimates(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        if not rows:
            return {}
        keys = {row["id"]: (row["project_id"], history_key(row["work"])) for row in rows}
        samples = samples_of(tx, rows[0]["workspace_id"], list(keys.values()))
        alike: dict[tuple[Any, ...], Estimate] = {}  # rows read together share what says the same
        found = {}
        for row in rows:
            same = (row["project_id"], id(row["work"]), id(row["options"]))
            if same not in alike:
                alike[same] = estimate(
                    row["work"],
                    samples.get(keys[row["id"]], ()),
                    stated=row["options"].get("estimate"),
                    quote=partial(quote, row["workspace_id"], row["project_id"]),
                )
            found[row["id"]] = alike[same]
        return found

    return estimates


def _no_price(_workspace: str, _project: str, model: str) -> UnknownPrice:
    return UnknownPrice(f"nobody asked what {model} costs")


expected = estimator(_no_price)
"""The same without any prices."""
