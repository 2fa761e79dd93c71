"""Retention: deletes finished runs and other rows that are older than the settings allow."""

from __future__ import annotations

import time
from pathlib import Path

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.errors import Conflict
from coordination.flows.projects.retain import RetentionAges, preview_retention
from coordination.flows.projects.retain import RetentionResult as RetentionResult
from coordination.flows.projects.retain import retain as flow
from coordination.runtime import Runtime


def retain(runtime: Runtime, *, dry_run: bool = False, archive: Path | None = None) -> RetentionResult:
    """Delete what is older than the settings allow; *dry_run*: only count it. Return the counts.

    *archive*: the folder to which each run is written first. Raises Conflict while another process deletes.
    """
    settings = runtime.settings
    ages = RetentionAges(
        runs=settings.retention_runs, workers=settings.retention_workers, costs=settings.retention_costs
    )
    if dry_run:
        return preview_retention(runtime.store, runtime.workspace_id, ages)
    deleted = flow(
        runtime.store,
        runtime.workspace_id,
        ages,
        archive=archive.absolute() if archive else settings.retention_archive,
        artifacts=ArtifactStore(settings.artifacts_url),
        rest=_rest,
    )
    if deleted is None:
        raise Conflict("A worker or another command is deleting old rows now", hint="Try again later")
    return deleted


def _rest(seconds: float) -> bool:
    time.sleep(seconds)
    return False
