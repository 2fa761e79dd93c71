"""``coord costs …``: the ledger, added up, taken in and written out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.cli.options import AsJson, Limit, ProjectName, connected, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from coordination.domain.costs import CostRecord

_BATCH = 2000


class By(StrEnum):
    """What the sums are of."""

    PROJECT = "project"
    SESSION = "session"
    MODEL = "model"
    RUN = "run"
    AGENT = "agent"
    DAY = "day"


class Shape(StrEnum):
    """How a record is written."""

    NESTED = "nested"
    FLAT = "flat"
    AS_READ = "as-read"


OfProject = Annotated[str | None, typer.Option("--project", "-p", metavar="NAME", help="Only of this project.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Costs: every model call, exactly.")
    group.command("list")(list_)
    group.command("summary")(summary)
    group.command("import")(import_)
    group.command("export")(export)
    group.command("reprice")(reprice)
    app.add_typer(group, name="costs")


def list_(
    *,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """The latest records."""
    from coordination.store.queries import costs

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
    from coordination.cli.tables import show
    from coordination.money import show_usd

    show(
        ["time", "model", "agent", "tokens in", "out", "cost", "price", "session", "id"],
        [
            (
                one.occurred_at,
                one.model,
                one.agent,
                one.input_tokens,
                one.output_tokens,
                "unknown" if one.cost_usd is None else show_usd(one.cost_usd),
                _whose_price(one),
                one.session_id,
                one.id,
            )
            for one in records
        ],
        empty="No costs.",
    )


def _whose_price(record: CostRecord) -> str:
    """Who says what it cost: the one who made the call, or which prices of ours."""
    from coordination.domain.pricing import PRICED_BY

    by = str(record.extra.get(PRICED_BY) or ("" if record.cost_usd is None else "as told"))
    return f"corrects {record.corrects} by {by}" if record.corrects is not None else by


def summary(
    *,
    by: Annotated[By, typer.Option("--by", help="What the sums are of.")] = By.PROJECT,
    project: OfProject = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on, such as 2027-01-01.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The ledger added up."""
    from coordination.cli.beads import moment_of
    from coordination.cli.tables import show
    from coordination.money import show_usd
    from coordination.store.queries import costs
    from coordination.store.reports.spending import spending

    moment = moment_of(since) if since else None
    with connected() as co:
        project_id = co.project(project).id if project else None
        with co.runtime.store.read() as tx:
            found = spending(tx, co.runtime.workspace_id, by=by.value, project_id=project_id, since=moment)
            usd, calls, unpriced = costs.total(tx, co.runtime.workspace_id, project_id=project_id, since=moment)
            free = _free_but_priced(tx, co.runtime.workspace_id, project_id=project_id, since=moment)
    if as_json:
        total = {"cost_usd": usd, "calls": calls, "unpriced_calls": unpriced}
        print_json({"by": by.value, "groups": found, "total": total, "zero_cost_calls_of_priced_models": free})
        return
    show(
        [by.value, "calls", "tokens in", "out", "cost", "of unknown price"],
        [
            (
                group.name or group.key or "(none)",
                group.calls,
                group.input_tokens,
                group.output_tokens,
                show_usd(group.cost_usd),
                group.unpriced_calls or "",
            )
            for group in found
        ],
        empty="No costs.",
    )
    print(f"\n{show_usd(usd)} in {calls} calls" + (f", {unpriced} of them of unknown price" if unpriced else ""))
    if unpriced:
        print("Which models, and whether they have a price by now: coord costs reprice --dry-run")
    if free:
        models = ", ".join(free)
        print(
            f"{sum(free.values())} calls that used tokens were told to cost nothing, although the list has a price of"
        )
        print(f"{models}. What they would cost: coord costs reprice --zero --dry-run")


def _free_but_priced(
    tx: Connection, workspace_id: str, *, project_id: str | None, since: datetime | None
) -> dict[str, int]:
    """Calls that are said to have cost nothing, of models that cost something: how many, by model."""
    from coordination import price_list
    from coordination.domain.pricing import Quote
    from coordination.errors import Unavailable
    from coordination.services import prices
    from coordination.store.reports.spending import zero_cost

    free: dict[str, int] = {}
    book = prices.open_book(tx, workspace_id, price_list.quote)
    for one in zero_cost(tx, workspace_id, project_id=project_id, since=since):
        try:
            found = book.quote(one.model, one.project_id, one.at)
        except Unavailable:
            return free  # a remark about sums is not worth the sums
        if isinstance(found, Quote) and not found.price.is_free():
            free[one.model] = free.get(one.model, 0) + one.calls
    return free


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A costs.jsonl.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Take records into the ledger; those whose id is there already are left alone. A bad line refuses the file."""
    from itertools import islice

    from coordination.cli.options import whereabouts
    from coordination.errors import Refused
    from coordination.flows.import_costs import cost_project, import_costs
    from coordination.formats.costs_jsonl import read_costs

    read = new = 0
    try:
        with file.open("rb") as lines:
            # The whole file is checked first; then it is stored a batch at a time, which may be repeated at will.
            for _ in read_costs(lines, source=str(file)):
                read += 1
            lines.seek(0)
            with connected() as co:
                runtime = co.runtime
                place = whereabouts(co, project)
                owner = runtime.store.transact(
                    lambda tx: cost_project(
                        tx, runtime.workspace_id, identity=place.identity, name=place.name, path=place.path
                    )
                )
                records = read_costs(lines, source=str(file))
                while batch := list(islice(records, _BATCH)):
                    new += runtime.store.transact(
                        lambda tx, batch=batch: import_costs(  # type: ignore[misc]
                            tx, runtime.workspace_id, batch, project_id=owner.id
                        )
                    )
    except OSError as error:
        raise Refused(f"{file} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if as_json:
        print_json({"project": owner.name, "read": read, "new": new})
    else:
        print(f"{new} of {read} records are new to the ledger of {owner.name}.")


def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Where to (default: stdout).")] = None,
    *,
    shape: Annotated[Shape, typer.Option("--shape", help="How a record is written.")] = Shape.NESTED,
    project: OfProject = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run.")] = None,
) -> None:
    """Write the ledger as JSON Lines, oldest first."""
    from coordination.cli.beads import write_bytes
    from coordination.formats.costs_jsonl import write_costs
    from coordination.store.queries import costs

    with connected() as co:
        project_id = co.project(project).id if project else None
        run_id = co.run(run).id if run else None
        with co.runtime.store.read() as tx:
            records = costs.each(tx, co.runtime.workspace_id, project_id=project_id, run_id=run_id)
            write_bytes(file, write_costs(records, shape.value))
    if file is not None:
        print(f"Written to {file}.")


def reprice(
    *,
    project: OfProject = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only calls from then on, such as 2027-01-01.")
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
    from coordination import price_list
    from coordination.cli.beads import moment_of
    from coordination.cli.tables import show
    from coordination.flows.reprice_costs import Wanted, reprice_costs
    from coordination.money import show_usd

    moment = moment_of(since) if since else None
    with connected() as co:
        runtime = co.runtime
        project_id = co.project(project).id if project else None
        wanted = Wanted(project_id, moment, zero=zero, computed=computed)
        done = reprice_costs(
            runtime.store,
            runtime.workspace_id,
            wanted,
            listed=price_list.quote,
            actor=runtime.actor,
            dry_run=dry_run,
        )
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
        f"{done.corrected} of {done.looked_at} calls {would}corrected; the sum {'would be' if dry_run else 'is'} ",
        end="",
    )
    print(f"{show_usd(done.added_usd)} larger.")
