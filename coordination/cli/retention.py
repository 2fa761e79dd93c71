"""``coord retain``: delete what is older than it is to be kept, or say what that would be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.options import AsJson, connected, print_json

if TYPE_CHECKING:
    from coordination.flows.projects.retain import RetentionResult
    from coordination.settings import Settings

_WORDS = {
    "runs": "finished runs",
    "tasks": "tasks",
    "attempts": "attempts",
    "artifacts": "kept files",
    "merges": "records of merges",
    "task_holds": "holds of tasks",
    "output_chunks": "pieces of live output",
    "dependencies": "dependencies",
    "events": "events",
    "sessions": "sessions that were theirs alone",
    "workers": "workers that had stopped",
    "costs": "cost records",
}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("retain")(retain)


def retain(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    archive: Annotated[
        Path | None,
        typer.Option(
            "--archive",
            metavar="FOLDER",
            help="Write each run to a file there before it is deleted (default: COORD_RETENTION_ARCHIVE).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete finished runs and other rows that are older than COORD_RETENTION_RUNS, _WORKERS and _COSTS say.

    Workers do the same by themselves. Costs are kept when their runs go, unless COORD_RETENTION_COSTS says otherwise.
    """
    import time

    from coordination.adapters.artifact_store import ArtifactStore
    from coordination.base.errors import Conflict
    from coordination.flows.projects.retain import RetentionAges, would_retain
    from coordination.flows.projects.retain import retain as flow

    def rest(seconds: float) -> bool:
        time.sleep(seconds)
        return False

    with connected() as co:
        runtime = co.runtime
        settings = runtime.settings
        ages = RetentionAges(
            runs=settings.retention_runs, workers=settings.retention_workers, costs=settings.retention_costs
        )
        if dry_run:
            done: RetentionResult | None = would_retain(runtime.store, runtime.workspace_id, ages)
        else:
            files = ArtifactStore(settings.artifacts_url)
            folder = archive.absolute() if archive else settings.retention_archive
            done = flow(runtime.store, runtime.workspace_id, ages, archive=folder, artifacts=files, rest=rest)
    if done is None:
        raise Conflict("A worker or another command is deleting old rows now", hint="Try again when it is done")
    if as_json:
        print_json(_plain(done, settings, dry_run=dry_run))
    else:
        _show(done, dry_run=dry_run)


def _plain(done: RetentionResult, settings: Settings, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "older_than": {name: getattr(settings, f"retention_{name}") or None for name in ("runs", "workers", "costs")},
        "rows": {name: done.rows[name] for name in _WORDS},
        "needed": done.needed,
        "archives": [str(path) for path in done.archives],
    }


def _show(done: RetentionResult, *, dry_run: bool) -> None:
    counted = [f"{done.rows[name]:,} {words}" for name, words in _WORDS.items() if done.rows[name]]
    if not counted:
        print("Nothing is old enough to be deleted.")
    elif dry_run:
        print("Would delete: " + ", ".join(counted) + ".")
    else:
        print("Deleted: " + ", ".join(counted) + ".")
    if done.needed:
        print(f"{len(done.needed):,} old runs stay: open work or an open issue refers to them.")
    for path in done.archives:
        print(f"Written: {path}")
