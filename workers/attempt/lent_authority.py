"""Checks the authority of a task that was discovered by a job, before it starts."""

from __future__ import annotations

import os
from dataclasses import replace

from coordination.domain.access.authority import Rights, check_within, rights_of
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.tasks.attempts import Claim


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
    check_within(
        replace(allowed, folders=[os.path.realpath(folder) for folder in allowed.folders]), requested, models=False
    )
