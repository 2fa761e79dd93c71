"""``coord retain``: deletes rows that are older than the settings allow, or counts them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from coordination.cli.options import AsJson, open_connection, print_json
from coordination.views import fleet as views

if TYPE_CHECKING:
    from coordination.api.retention import RetentionResult

_WORDS = {
    "runs": "finished runs",
    "tasks": "tasks",
    "attempts": "attempts",
    "artifacts": "kept files",
    "merges": "records of merges",
    "output_chunks": "pieces of live output",
    "dependencies": "dependencies",
    "task_holds": "holds of tasks",
    "events": "events",
    "sessions": "sessions without other runs",
    "workers": "stopped workers",
    "costs": "cost records",
}


def retain(
    *,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show what would be deleted.")] = False,
    archive: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            help="Write each run to a file there before it is deleted (default: COORD_RETENTION_ARCHIVE).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete data past its retention age: COORD_RETENTION_RUNS, _WORKERS and _COSTS.

    Workers do the same periodically. Costs are kept when their runs are deleted, until COORD_RETENTION_COSTS.
    """
    from coordination.api.retention import retain as delete_old_rows

    with open_connection() as co:
        settings = co.runtime.settings
        deleted = delete_old_rows(co.runtime, dry_run=dry_run, archive=archive)
    if as_json:
        print_json(views.retention(deleted, settings, dry_run=dry_run))
    else:
        _show(deleted, dry_run=dry_run)


def _show(deleted: RetentionResult, *, dry_run: bool) -> None:
    counted = [f"{deleted.rows[name]:,} {words}" for name, words in _WORDS.items() if deleted.rows[name]]
    if not counted:
        print("Nothing is old enough to be deleted.")
    else:
        print(f"{'Would delete' if dry_run else 'Deleted'}: {', '.join(counted)}.")
    if deleted.needed:
        print(f"{len(deleted.needed):,} old runs are kept because open work or an open issue refers to them.")
    for path in deleted.archives:
        print(f"Wrote {path}")
