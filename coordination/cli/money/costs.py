"""``coord costs …``: sums, forecast, check, records and prices of the ledger; ``coord workspace timezone``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from coordination.base.errors import NOT_COMPLETED
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.issues.beads import write_bytes
from coordination.cli.options import AsJson, Limit, OfProject, ProjectName, open_connection, print_json
from coordination.cli.tables import fields, show
from coordination.views import money as views
from coordination.views import projects
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.costs import CheckedSums
    from coordination.domain.money.costs import CostRecord

By = Literal["project", "session", "model", "run", "agent", "account", "day", "month"]
_TIME = "today, yesterday, monday, 7d, a month (2027-01), a day or a time"


def list_(
    *,
    project: OfProject = None,
    run: Annotated[str | None, Option(metavar="RUN", help="Only this run.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the latest cost records."""
    from coordination.store.queries.money import costs

    with open_connection() as co:
        project_id = co.project(project).id if project else None
        run_id = co.run(run).id if run else None
        records = co.runtime.read(costs.newest, project_id=project_id, run_id=run_id, limit=limit)
    if as_json:
        print_json(listing("costs", views.cost, records))
    else:
        record_table(records)


def record_table(records: Sequence[CostRecord]) -> None:
    """Print cost records as a table."""
    show(
        ["time", "model", "agent", "account", "tokens in", "out", "cost", "price", "session", "id"],
        [
            (
                record.occurred_at,
                record.model,
                record.agent,
                record.account,
                record.input_tokens,
                record.output_tokens,
                "unknown" if record.cost_usd is None else show_usd(record.cost_usd),
                _price_words(record),
                record.session_id,
                record.id,
            )
            for record in records
        ],
        empty="No costs.",
        optional=["account"],
    )


def _price_words(record: CostRecord) -> str:
    """Return the source of the cost, the caller or our prices, and the amounts that the job reported, if several."""
    from coordination.domain.money.pricing import AMOUNTS, PRICED_BY

    by = str(record.extra.get(PRICED_BY) or ("" if record.cost_usd is None else "as reported"))
    amounts = record.extra.get(AMOUNTS)
    words = [
        by if record.corrects is None else f"corrects {record.corrects} by {by}",
        f"reported as {', '.join(f'${amount}' for amount in amounts)}" if isinstance(amounts, list) else "",
        "stale" if record.stale else "",
    ]
    return ", ".join(filter(None, words))


def summary(
    *,
    by: Annotated[By, Option(help="The dimension.")] = "project",
    project: OfProject = None,
    since: Annotated[str | None, Option(metavar="TIME", help=f"From this time on: {_TIME}.")] = None,
    until: Annotated[str | None, Option(metavar="TIME", help="Until this time; a month or day is included.")] = None,
    top: Annotated[int | None, Option(help="Only this many, the most expensive.", min=1, max=100_000)] = None,
    as_json: AsJson = False,
) -> None:
    """Show the sums of the ledger. Days and months are those of the workspace's time zone."""
    from coordination.api.user_times import describe

    with open_connection() as co:
        span, zone = co.costs.span(since, until), co.costs.timezone
        begin, end = span.since or span.first, span.until or span.last
        groups = co.costs.summary(by, project=project, since=begin, until=end, top=top)
        total = co.costs.total(project=project, since=begin, until=end)
        free = co.costs.free_but_priced(project=project, asked=span)
    if as_json:
        begins, ends = span.moments(zone)
        times = {"since": begins, "until": ends}
        print_json(views.cost_summary(by=by, **times, timezone=zone, groups=groups, total=total, free=free))
        return
    show(
        [by, "calls", "tokens in", "out", "cost", "of unknown price"],
        [
            (
                group.name or group.key or "(none)",
                group.calls,
                group.input_tokens,
                group.output_tokens,
                show_usd(group.cost_usd),
                group.unpriced_calls or "",
            )
            for group in groups
        ],
        empty="No costs.",
    )
    unknown = f", {total.unpriced_calls} of them of unknown price" if total.unpriced_calls else ""
    print(f"\n{show_usd(total.cost_usd)} in {plural(total.calls, 'call')}{unknown}")
    if when := describe(span, zone):
        print(f"Counted {when}.")
    if total.unpriced_calls:
        print("Check for prices: coord costs reprice --dry-run")
    warn_of_free_calls(free)


def forecast(*, project: OfProject = None, as_json: AsJson = False) -> None:
    """Show the costs of today and this month, and the forecast for the month."""
    from coordination.domain.forecast.forecasts import CONFIDENCE, MIN_DAYS

    with open_connection() as co:
        outlook = co.costs.forecast(project=project)
    if as_json:
        print_json(views.cost_forecast(project, outlook))
        return
    month = outlook.forecast
    amounts = [show_usd(round(usd, 2)) for usd in ((month.usd, month.low, month.high) if month else ())]
    fields(
        [
            ("day", f"{outlook.day} ({outlook.zone})"),
            ("spent today", show_usd(outlook.spent_today_usd)),
            ("spent this month", show_usd(outlook.spent_month_usd)),
            ("pace", f"{show_usd(outlook.burn.per_day)} a day, {show_usd(outlook.burn.per_hour)} an hour"),
            (
                "month's end",
                f"{amounts[0]}, with {CONFIDENCE} % between {amounts[1]} and {amounts[2]}" if month else None,
            ),
            ("based on", f"{month.days} days, by {month.method}" if month else None),
        ]
    )
    if month is None:
        print(f"There is no forecast for the month yet: it needs {MIN_DAYS} whole days with costs before today.")
    if outlook.unpriced_month:
        print(f"{outlook.unpriced_month:,} calls of this month without a known price are excluded: coord costs reprice")


def check(
    *,
    repair: Annotated[bool, Option("--repair", help="Correct wrong sums. Safe while work is running.")] = False,
    as_json: AsJson = False,
) -> None:
    """Verify the sums against the ledger's records. Exit code 1 when they differ."""
    with open_connection() as co:
        result = co.costs.check(repair=repair)
    if as_json:
        print_json(views.cost_check(result))
    else:
        _print_result(result)
    if not result.repaired and (result.wrong or not result.complete):
        raise typer.Exit(NOT_COMPLETED)


def _print_result(result: CheckedSums) -> None:
    rows = [
        (cell.dimension, cell.key or "(none)", cell.grain, cell.starts, missing.calls, show_usd(missing.cost_usd))
        for cell, missing in result.examples
    ]
    if rows:
        show(["dimension", "key", "period", "from", "missing calls", "missing dollars"], rows)
    if result.repaired:
        print(f"{result.wrong:,} wrong sums were corrected.")
    elif result.wrong:
        print(f"{result.wrong:,} sums do not match the records. Correct them: coord costs check --repair")
    elif not result.complete:
        print("The sums are incomplete, so every summary reads the ledger. Compute them: coord costs check --repair")
    else:
        print("All sums match the records.")


def import_(
    file: Annotated[Path, Argument(metavar="FILE", help="A costs.jsonl file.")],
    *,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Import records into the ledger; known ids are skipped.

    A bad line, or a known id with another amount, rejects the file. An unfinished last line is skipped with a note.
    """
    from coordination.store.reports.money.spending import ZeroCost

    with open_connection() as co:
        result = co.costs.import_file(file, project=project)
        free_items = sorted(result.free.items(), key=repr)
        free_calls = [ZeroCost(model, project_id, calls, at) for (model, project_id), (calls, at) in free_items]
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
    file: Annotated[Path | None, Argument(metavar="[FILE]", help="The output file (default: stdout).")] = None,
    *,
    shape: Annotated[Literal["nested", "flat", "as-read"], Option(help="The format of a record.")] = "nested",
    project: OfProject = None,
    run: Annotated[str | None, Option(metavar="RUN", help="Only this run.")] = None,
) -> None:
    """Export the ledger as JSON Lines, oldest record first."""
    with open_connection() as co:
        run_id = co.run(run).id if run else None
        write_bytes(file, co.costs.export(shape, project=project, run_id=run_id))
    if file is not None:
        print(f"Wrote {file}.")


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


def timezone(
    zone: Annotated[str | None, Argument(metavar="[ZONE]", help="Such as Europe/Berlin.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show or change the time zone of days and months. A change recomputes all sums."""
    with open_connection() as co:
        if zone is not None:
            co.costs.set_timezone(zone)
        now = co.costs.timezone
    if as_json:
        print_json(projects.workspace(timezone=now))
    else:
        print(f"The time zone is {now}.")
