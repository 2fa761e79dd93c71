"""Makes a batch of claims ready to run: with outputs of earlier tasks, and no more rights than they were lent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from coordination.base.errors import Refused
from coordination.domain.agents import prompts
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.tasks import needs_own_batch
from workers.attempt.lent_authority import check_authority
from workers.leases.in_flight import InFlightAttempt
from workers.runners.base import Runner
from workers.runners.registry import Runners

log = structlog.get_logger()


def rendered(
    runners: Runners, batch: Sequence[InFlightAttempt], *, fresh_since: float
) -> tuple[list[Claim], AttemptEnd | None]:
    """The claims of *batch* with the outputs of earlier tasks filled in, up to the first one that must wait.

    Nothing and the reason when the first one cannot be run at all. *fresh_since*: from when on a lease must have been
    renewed, in monotonic seconds.
    """
    claims: list[Claim] = []
    first: Runner | None = None
    plain: Mapping[str, Any] | None = None  # a job without templates; the claims of a statement share what is alike
    for held in batch:
        claim = held.claim
        if held.stop_reason is not None or (claims and held.renewed_at < fresh_since):
            break
        if claim.work is not plain or claim.authority is not None:
            try:
                check_authority(claim)
                claim = prompts.render_job(claim)
                runner = runners.runner_for(claim.work)
            except Exception as error:
                # A bulkhead: a bug of ours in a template costs the attempt that has it, not the whole bundle.
                if not isinstance(error, Refused):
                    log.exception("a job could not be rendered", task=claim.key, project=claim.project)
                why = error.sentence() if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
                refused = AttemptEnd(Outcome.FAILED, error=why, retryable=False, job_started=False)
                return (claims, None) if claims else ([], refused)
            if first is not None and runner is not first:
                break
            first = runner
            plain = claim.work if claim is held.claim else None
        if claims and (needs_own_batch(claim.options) or claim.losses):
            break
        claims.append(claim)
    return claims, None
