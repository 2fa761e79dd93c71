"""``coord costs summary``, ``forecast`` and ``check``: sums of the ledger; ``coord workspace timezone``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from coordination.base.errors import NOT_COMPLETED
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.money.cost_records import warn_of_free_calls
from coordination.cli.options import AsJson, OfProject, open_connection, print_json
from coordination.cli.tables import fields, show
from coordination.views import money as views
from coordination.views import projects

if TYPE_CHECKING:
    from coordination.api.costs import CheckedSums


By = Literal["project", "session", "model", "run", "agent", "account", "day", "month"]
_TIME = "today, yesterday, monday, 7d, a month (2027-01), a day or a time"


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
