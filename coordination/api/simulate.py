"""Predicts what a plan would take and cost before it is submitted."""

from __future__ import annotations

from datetime import timedelta

from coordination.api.plan_origin import find_origin
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.plans.plans import Plan
from coordination.flows.forecast.simulate_plan import simulate_plan
from coordination.runtime import Runtime


def simulate(runtime: Runtime, plan: Plan, *, slots: int | None, assume: timedelta | None, seed: int) -> Prediction:
    """Return the prediction for *plan*. See ``Coordination.simulate``."""
    settings = runtime.settings
    origin = find_origin(plan, actor=runtime.actor, metadata={})
    with runtime.store.read() as tx:
        predict = simulate_plan(
            tx,
            runtime.workspace_id,
            plan,
            origin.identity,
            slots=slots,
            live_within=settings.lease_ttl,
            default_slots=settings.slots,
            assume=assume,
        )
    return predict(seed=seed)
