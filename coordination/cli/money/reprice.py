"""``coord costs reprice``: prices that came later than the calls."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, OfProject, connected, print_json
from coordination.views import money as views


def reprice(
    *,
    project: OfProject = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only calls since this month (2027-01), day or time."),
    ] = None,
    zero: Annotated[
        bool, typer.Option("--zero", help="Include calls that used tokens and were reported as free.")
    ] = False,
    computed: Annotated[
        bool, typer.Option("--computed", help="Include calls whose cost was computed, by prices that may have changed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be corrected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add corrections for calls whose price was unknown and is known now. Safe to repeat."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    with connected() as co:
        result = co.costs.reprice(project=project, since=since, zero=zero, computed=computed, dry_run=dry_run)
    corrected = [(*key, calls, result.usd[key]) for key, calls in sorted(result.calls.items())]
    left = [(*key, calls) for key, calls in sorted(result.left.items())]
    if as_json:
        print_json(views.repricing(result, dry_run=dry_run))
        return
    if corrected:
        rows = [(model, calls, show_usd(usd), by) for model, by, calls, usd in corrected]
        show(["model", "calls", "adds", "price"], rows)
    if left:
        show(["unchanged", "calls", "reason"], [(model, calls, why) for model, why, calls in left])
        print("Set a price: coord prices set MODEL --input USD --output USD")
    would = "would be " if dry_run else ""
    print(
        f"{result.corrected:,} of {plural(result.looked_at, 'call')} {would}corrected; "
        f"the sum {'would be' if dry_run else 'is'} ",
        end="",
    )
    print(f"{show_usd(result.added_usd)} larger.")
