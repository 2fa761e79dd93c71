"""What a plan would take and cost, asked before it is submitted."""

from __future__ import annotations

from datetime import timedelta

from coordination.domain.forecast.predictions import Prediction
from coordination.domain.plans.plans import Plan
from coordination.flows.forecast.simulate_plan import simulate_plan
from coordination.location import origin_of
from coordination.runtime import Runtime


class Foreseen:
    """What of a connection looks ahead."""

    runtime: Runtime

    def simulate(
        self, plan: Plan, *, slots: int | None = None, assume: timedelta | None = None, seed: int = 0
    ) -> Prediction:
        """What *plan* would take and cost in its project, from what jobs like its own took; nothing is stored.

        *slots*: how many jobs run at once (default: as many as the living workers, else one worker). *assume*: how long
        jobs take of which nothing is known. The same *seed* gives the same answer. Raises PlanError or Refused.
        """
        runtime = self.runtime
        settings = runtime.settings
        origin = origin_of(plan, actor=runtime.actor, metadata={})
        with runtime.store.read() as tx:
            basis = simulate_plan(
                tx,
                runtime.workspace_id,
                plan,
                origin.identity,
                places=slots,
                live_within=settings.lease_ttl,
                otherwise=settings.slots,
                assume=assume,
            )
        return basis.predicted(seed=seed)
