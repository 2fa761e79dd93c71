"""JSON forms of the check and the prediction of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coordination.views.fields import fields_of

if TYPE_CHECKING:
    from coordination.domain.forecast.predictions import Prediction
    from coordination.domain.plans.plan_warnings import PlanWarning


def plan_check(path: str, *, tasks: int, dependencies: int, warnings: Sequence[PlanWarning]) -> dict[str, Any]:
    """Return the check of a valid plan file."""
    counts = {"tasks": tasks, "dependencies": dependencies}
    return {"plan": path, "valid": True, **counts, "warnings": [one.to_json() for one in warnings]}


def prediction(record: Prediction) -> dict[str, Any]:
    """Return the prediction of a plan's duration and cost."""
    return fields_of(record)
