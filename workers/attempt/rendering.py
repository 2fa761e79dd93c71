"""Renders a group of claims with the outputs of upstream tasks and checks their authority."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from coordination.base.errors import Refused
from coordination.domain.access.authority import Rights, check_within, rights_of
from coordination.domain.agents import prompts
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.tasks import needs_own_batch
from workers.leases.in_flight import InFlightAttempt
from workers.runners.base import Runner
from workers.runners.registry import Runners

log = structlog.get_logger()


def render_claims(
    runners: Runners, group: Sequence[InFlightAttempt], *, fresh_since: float
) -> tuple[list[Claim], AttemptEnd | None]:
    """Return the rendered claims of *group*, up to the first that cannot run together with those before it.

    When the first claim cannot run, return no claims and its end. *fresh_since*: when leases must have been renewed at
    the earliest, in monotonic seconds.
    """
    claims: list[Claim] = []
    common_runner: Runner | None = None
    plain: Mapping[str, Any] | None = None  # a job without templates; claims of one statement share equal jobs
    for in_flight in group:
        claim = in_flight.claim
        if in_flight.stop_reason is not None or (claims and in_flight.renewed_at < fresh_since):
            break
        if claim.work is not plain or claim.authority is not None:
            try:
                if claim.authority is not None:
                    check_authority(claim)
                claim = prompts.render_job(claim)
                runner = runners.by_kind[claim.job_kind]
            except Exception as error:
                # A bug in the rendering of one template must not end the whole batch.
                if not isinstance(error, Refused):
                    log.exception("a job could not be rendered", task=claim.key, project=claim.project)
                why = error.sentence() if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
                refused = AttemptEnd(Outcome.FAILED, error=why, retryable=False, job_started=False)
                return (claims, None) if claims else ([], refused)
            if common_runner is not None and runner is not common_runner:
                break
            common_runner = runner
            plain = claim.work if claim is in_flight.claim else None
        if claims and (needs_own_batch(claim.options) or claim.losses):
            break
        claims.append(claim)
    return claims, None


def check_authority(claim: Claim) -> None:
    """Raise Refused if a discovered task exceeds the authority of the job that added it. *claim*: not rendered.

    Folders are compared by their real paths now, because a job may have made a link since the task was added. The
    priority is not checked: a person may have raised it.
    """
    allowed = rights_of(claim.authority)
    if allowed is None:
        return
    requested = Rights(
        claim.work,
        () if claim.workdir is None else (os.path.realpath(claim.workdir),),
        claim.options.get("checkout", {}),
        claim.timeout,
        claim.stall_timeout,
        limits_of(claim.options),
        claim.agent,
        max_attempts=claim.max_attempts,
    )
    folders = [os.path.realpath(folder) for folder in allowed.folders]
    check_within(replace(allowed, folders=folders), requested, models=False)
