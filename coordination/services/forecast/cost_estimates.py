"""Estimates the costs of tasks from the job history of their project, prices and plans."""

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

QuoteInProject = Callable[[str, str, str], Quote | UnknownPrice]
"""Returns the price of a model, given the workspace, the project and the model's name."""


def make_estimator(
    quote: QuoteInProject, *, fresh: timedelta = timedelta(0)
) -> Callable[[Connection, Sequence[Mapping[str, Any]]], dict[str, Estimate]]:
    """Return a function that estimates the cost of tasks, by id. Rows: id, workspace_id, project_id, work, options.

    The job history is cached for *fresh*.
    """
    cache: dict[tuple[str, str], tuple[float, tuple[JobSample, ...]]] = {}

    def samples_of(
        tx: Connection, workspace_id: str, keys: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[JobSample, ...]]:
        now = monotonic()
        oldest = now - fresh.total_seconds()
        missing = [key for key in dict.fromkeys(keys) if key not in cache or cache[key][0] <= oldest]
        if missing:
            samples = job_history.samples_of(tx, workspace_id, missing)
            if len(cache) > _REMEMBERED:
                cache.clear()
            cache.update({key: (now, samples.get(key, ())) for key in missing})
        return {key: cache[key][1] for key in keys if key in cache}

    def estimates(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
        if not rows:
            return {}
        keys = {row["id"]: (row["project_id"], history_key(row["work"])) for row in rows}
        samples = samples_of(tx, rows[0]["workspace_id"], list(keys.values()))
        shared: dict[tuple[Any, ...], Estimate] = {}  # rows that are read together share equal jobs
        by_task = {}
        for row in rows:
            same = (row["project_id"], id(row["work"]), id(row["options"]))
            if same not in shared:
                shared[same] = estimate(
                    row["work"],
                    samples.get(keys[row["id"]], ()),
                    stated=row["options"].get("estimate"),
                    quote=partial(quote, row["workspace_id"], row["project_id"]),
                )
            by_task[row["id"]] = shared[same]
        return by_task

    return estimates


def _no_price(_workspace: str, _project: str, model: str) -> UnknownPrice:
    return UnknownPrice(f"prices of {model} are not looked up here")


unpriced_estimator = make_estimator(_no_price)
"""An estimator that uses no prices."""
