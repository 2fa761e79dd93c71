"""Asks before a task that a job reported begins whether it stays within what that job may."""

from __future__ import annotations

import os
from dataclasses import replace

from coordination.domain.access.authority import Rights, check_within, rights_of
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.tasks.attempts import Claim


def check_authority(claim: Claim) -> None:
    """Refuse a task that a job reported if it goes beyond what that job may. *claim*: as stored, not rendered.

    Folders are compared by their real paths, here and now: a job may have made a link since the task was added. The
    priority is not: it has had its effect, and a person may have raised it.
    """
    held = rights_of(claim.authority)
    if held is None:
        return
    asked = Rights(
        claim.work,
        () if claim.workdir is None else (os.path.realpath(claim.workdir),),
        claim.options.get("checkout", {}),
        claim.timeout,
        claim.stall_timeout,
        limits_of(claim.options),
        claim.agent,
        max_attempts=claim.max_attempts,
    )
    check_within(replace(held, folders=[os.path.realpath(place) for place in held.folders]), asked, models=False)
