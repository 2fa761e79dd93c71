"""``coord costs list``, ``import`` and ``export``: the ledger record by record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.options import AsJson, Limit, OfProject, ProjectName, connected, print_json

if TYPE_CHECKING:
    from coordination.domain.money.costs import CostRecord


class Shape(StrEnum):
    """How a record is written."""

    NESTED = "nested"
    FLAT = "flat"
    AS_READ = "as-read"


def list_(
    *,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """The latest records."""
    from coordination.store.queries.money import costs

    with connected() as co:
        project_id = co.project(project).id if project else None
        run_id = co.run(run).id if run else None
        with co.runtime.store.read() as tx:
            found = costs.newest(tx, co.runtime.workspace_id, project_id=project_id, run_id=run_id, limit=limit)
    if as_json:
        print_json({"costs": found})
    else:
        record_table(found)


def record_table(records: Sequence[CostRecord]) -> None:
    """Cost records for people."""
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
    """Who says what it cost: the one who made the call, or which prices of ours."""
    from coordination.domain.money.pricing import PRICED_BY

    by = str(record.extra.get(PRICED_BY) or ("" if record.cost_usd is None else "as told"))
    return f"corrects {record.corrects} by {by}" if record.corrects is not None else by


def _amounts(record: CostRecord) -> str:
    """All amounts with which its job has reported the call, where they are several."""
    from coordination.domain.money.pricing import AMOUNTS

    found = record.extra.get(AMOUNTS)
    return f"reported as {', '.join(f'${one}' for one in found)}" if isinstance(found, list) else ""


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A costs.jsonl.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Take records into the ledger; those whose id is there already are left alone. A bad line refuses the file.

    So does an id that stands for another amount. A last line that its writer has not finished is left out, and said.
    """
    from coordination.store.reports.money.spending import ZeroCost

    with connected() as co:
        done = co.costs.import_file(file, project=project)
        told = [ZeroCost(model, of, calls, at) for (model, of), (calls, at) in sorted(done.free.items(), key=repr)]
        free = co.costs.with_a_price(told)
    if as_json:
        print_json(
            {
                "project": done.project,
                "read": done.read,
                "new": done.new,
                "unpriced_calls": done.unpriced,
                "zero_cost_calls_of_priced_models": free,
                "torn_line": done.torn,
            }
        )
        return
    new = "is" if done.new == 1 else "are"
    print(f"{done.new:,} of {plural(done.read, 'record')} {new} new to the ledger of {done.project}.")
    if done.torn is not None:
        print(f"Line {done.torn:,}, the last, is not finished and was left out. Import the file again when it is.")
    if done.unpriced:
        print(f"{done.unpriced:,} of them are of unknown price. Which have one by now: coord costs reprice --dry-run")
    say_free(free)


def say_free(free: Mapping[str, int]) -> None:
    """That calls were told to cost nothing although their models cost something, where there are any."""
    if free:
        print(
            f"{sum(free.values()):,} calls that used tokens were told to cost nothing, although the list has a price of"
        )
        print(f"{', '.join(free)}. What they would cost: coord costs reprice --zero --dry-run")


def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to (default: stdout).")] = None,
    *,
    shape: Annotated[Shape, typer.Option("--shape", help="How a record is written.")] = Shape.NESTED,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run.")] = None,
) -> None:
    """Write the ledger as JSON Lines, oldest first."""
    from coordination.cli.beads import write_bytes

    with connected() as co:
        run_id = co.run(run).id if run else None
        write_bytes(file, co.costs.export(shape.value, project=project, run_id=run_id))
    if file is not None:
        print(f"Written to {file}.")
