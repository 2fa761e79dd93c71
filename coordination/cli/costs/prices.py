"""``coord costs reprice``: prices that came later than the calls."""

from __future__ import annotations

from typing import Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, OfProject, connected, print_json


def reprice(
    *,
    project: OfProject = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only calls from then on: a month (2027-01), a day or a time."),
    ] = None,
    zero: Annotated[
        bool, typer.Option("--zero", help="Also calls that used tokens and were told to have cost nothing.")
    ] = False,
    computed: Annotated[
        bool, typer.Option("--computed", help="Also calls whose cost was computed, by prices that may have changed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be corrected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give calls of unknown price the price that is known now, by corrections beside them. Safe to repeat."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    with connected() as co:
        done = co.costs.reprice(project=project, since=since, zero=zero, computed=computed, dry_run=dry_run)
    corrected = [(*key, calls, done.usd[key]) for key, calls in sorted(done.calls.items())]
    left = [(*key, calls) for key, calls in sorted(done.left.items())]
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "looked_at": done.looked_at,
                "corrected_calls": done.corrected,
                "added_usd": done.added_usd,
                "corrected": [dict(zip(("model", "priced_by", "calls", "usd"), row, strict=True)) for row in corrected],
                "left": [dict(zip(("model", "why", "calls"), row, strict=True)) for row in left],
            }
        )
        return
    if corrected:
        rows = [(model, calls, show_usd(usd), by) for model, by, calls, usd in corrected]
        show(["model", "calls", "adds", "price"], rows)
    if left:
        show(["left as they are", "calls", "because"], [(model, calls, why) for model, why, calls in left])
        print("A price of your own: coord prices set MODEL --input USD --output USD")
    would = "would be " if dry_run else ""
    print(
        f"{done.corrected:,} of {plural(done.looked_at, 'call')} {would}corrected; "
        f"the sum {'would be' if dry_run else 'is'} ",
        end="",
    )
    print(f"{show_usd(done.added_usd)} larger.")
