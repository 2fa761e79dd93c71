"""``coord costs list``, ``import`` and ``export``: the ledger record by record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, Limit, OfProject, ProjectName, connected, print_json
from coordination.views import money as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.domain.money.costs import CostRecord


class Shape(StrEnum):
    """The format of exported records."""

    NESTED = "nested"
    FLAT = "flat"
    AS_READ = "as-read"


def list_(
    *,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only this run.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest records."""
    from coordination.store.queries.money import costs

    with connected() as co:
        project_id = co.project(project).id if project else None
        run_id = co.run(run).id if run else None
        with co.runtime.store.read() as tx:
            records = costs.newest(tx, co.runtime.workspace_id, project_id=project_id, run_id=run_id, limit=limit)
    if as_json:
        print_json(listing("costs", views.cost, records))
    else:
        record_table(records)


def record_table(records: Sequence[CostRecord]) -> None:
    """Print cost records as a table."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    show(
        ["time", "model", "agent", "account", "tokens in", "out", "cost", "price", "session", "id"],
        [
            (
                one.occurred_at,
                one.model,
                one.agent,
                one.account,
                one.input_tokens,
                one.output_tokens,
                "unknown" if one.cost_usd is None else show_usd(one.cost_usd),
                ", ".join(filter(None, [_whose_price(one), _amounts(one), "stale" if one.stale else ""])),
                one.session_id,
                one.id,
            )
            for one in records
        ],
        empty="No costs.",
        optional=["account"],
    )


def _whose_price(record: CostRecord) -> str:
    """Return the source of the cost: the caller, or our prices."""
    from coordination.domain.money.pricing import PRICED_BY

    by = str(record.extra.get(PRICED_BY) or ("" if record.cost_usd is None else "as reported"))
    return f"corrects {record.corrects} by {by}" if record.corrects is not None else by


def _amounts(record: CostRecord) -> str:
    """Return all amounts that its job has reported for the call, if there are several."""
    from coordination.domain.money.pricing import AMOUNTS

    amounts = record.extra.get(AMOUNTS)
    return f"reported as {', '.join(f'${one}' for one in amounts)}" if isinstance(amounts, list) else ""


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A costs.jsonl.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Import records into the ledger; known ids are skipped. A bad line rejects the file.

    So does a known id with another amount. An unfinished last line is skipped, with a note.
    """
    from coordination.store.reports.money.spending import ZeroCost

    with connected() as co:
        result = co.costs.import_file(file, project=project)
        free_calls = [
            ZeroCost(model, of, calls, at) for (model, of), (calls, at) in sorted(result.free.items(), key=repr)
        ]
        free = co.costs.with_a_price(free_calls)
    if as_json:
        print_json(views.cost_import(result, free))
        return
    print(f"Imported {result.new:,} of {plural(result.read, 'record')} into the ledger of {result.project}.")
    if result.torn is not None:
        print(
            f"Line {result.torn:,}, the last, is unfinished and was skipped. Import the file again when it is complete."
        )
    if result.unpriced:
        print(f"{result.unpriced:,} of them have no known price. Check for prices: coord costs reprice --dry-run")
    warn_of_free_calls(free)


def warn_of_free_calls(free: Mapping[str, int]) -> None:
    """Print a warning about calls that are reported as free although their models have a price."""
    if free:
        print(f"{sum(free.values()):,} calls that used tokens were reported as free, although there is a price for")
        print(f"{', '.join(free)}. Compute their cost: coord costs reprice --zero --dry-run")


def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The output file (default: stdout).")] = None,
    *,
    shape: Annotated[Shape, typer.Option("--shape", help="The format of a record.")] = Shape.NESTED,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only this run.")] = None,
) -> None:
    """Export the ledger as JSON Lines, oldest record first."""
    from coordination.cli.issues.beads import write_bytes

    with connected() as co:
        run_id = co.run(run).id if run else None
        write_bytes(file, co.costs.export(shape.value, project=project, run_id=run_id))
    if file is not None:
        print(f"Written to {file}.")
