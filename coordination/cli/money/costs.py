"""``coord costs …``: sums, forecast, check, import and export of the cost ledger; corrections by new prices."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.money import cost_records as records
from coordination.cli.money import cost_sums as sums
from coordination.cli.options import AsJson, OfProject, add_group, open_connection, print_json
from coordination.cli.tables import show
from coordination.views import money as views


def add_to(app: typer.Typer) -> None:
    help_ = "Show costs: every model call, exactly."
    commands = (sums.summary, sums.forecast, sums.check, records.import_, records.export, reprice)
    add_group(app, "costs", help_, records.list_, *commands)


def reprice(
    *,
    project: OfProject = None,
    since: Annotated[
        str | None, Option(metavar="TIME", help="Only calls since this month (2027-01), day or time.")
    ] = None,
    zero: Annotated[bool, Option("--zero", help="Include calls that used tokens and were reported as free.")] = False,
    computed: Annotated[
        bool, Option("--computed", help="Include calls whose cost was computed, by prices that may have changed.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show what would be corrected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Correct the costs of calls whose price has become known. Safe to repeat."""
    with open_connection() as co:
        result = co.costs.reprice(project=project, since=since, zero=zero, computed=computed, dry_run=dry_run)
    corrected = [(*key, calls, result.usd[key]) for key, calls in sorted(result.calls.items())]
    unchanged = [(*key, calls) for key, calls in sorted(result.left.items())]
    if as_json:
        print_json(views.repricing(result, dry_run=dry_run))
        return
    if corrected:
        rows = [(model, calls, show_usd(usd), by) for model, by, calls, usd in corrected]
        show(["model", "calls", "added cost", "price"], rows)
    if unchanged:
        show(["unchanged", "calls", "reason"], [(model, calls, why) for model, why, calls in unchanged])
        print("Set a price: coord prices set MODEL --input USD --output USD")
    counts = f"{result.corrected:,} of {plural(result.looked_at, 'call')}"
    would, is_ = ("would be ", "would be") if dry_run else ("", "is")
    print(f"{counts} {would}corrected; the sum {is_} {show_usd(result.added_usd)} larger.")
