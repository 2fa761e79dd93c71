"""``coord costs summary``, ``forecast`` and ``check``: what the ledger comes to, and that it does."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.wording import plural
from coordination.cli.costs.records import say_free
from coordination.cli.options import AsJson, OfProject, connected, print_json

if TYPE_CHECKING:
    from coordination.flows.money.check_costs import LedgerCheck


class By(StrEnum):
    """What the sums are of."""

    PROJECT = "project"
    SESSION = "session"
    MODEL = "model"
    RUN = "run"
    AGENT = "agent"
    ACCOUNT = "account"
    DAY = "day"
    MONTH = "month"


_TIME = "today, yesterday, monday, 7d, a month (2027-01), a day or a time"


def summary(
    *,
    by: Annotated[By, typer.Option("--by", help="What the sums are of.")] = By.PROJECT,
    project: OfProject = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help=f"From then on: {_TIME}.")] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Until then; its month or day included.")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="Only so many, the dearest.", min=1, max=100_000)] = None,
    as_json: AsJson = False,
) -> None:
    """The ledger added up, in the days and months of the workspace's time zone."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import show
    from coordination.user_times import said

    with connected() as co:
        asked, zone = co.costs.span(since, until), co.costs.timezone
        begin, end = asked.since or asked.first, asked.until or asked.last
        found = co.costs.summary(by.value, project=project, since=begin, until=end, top=top)
        total = co.costs.total(project=project, since=begin, until=end)
        free = co.costs.free_but_priced(project=project, asked=asked)
    if as_json:
        begins, ends = asked.moments(zone)
        print_json(
            {
                "by": by.value,
                "since": begins,
                "until": ends,
                "timezone": zone,
                "groups": found,
                "total": total,
                "zero_cost_calls_of_priced_models": free,
            }
        )
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
    unknown = f", {total.unpriced_calls} of them of unknown price" if total.unpriced_calls else ""
    print(f"\n{show_usd(total.cost_usd)} in {plural(total.calls, 'call')}{unknown}")
    if when := said(asked, zone):
        print(f"Counted {when}.")
    if total.unpriced_calls:
        print("Which models, and whether they have a price by now: coord costs reprice --dry-run")
    say_free(free)


def forecast(*, project: OfProject = None, as_json: AsJson = False) -> None:
    """What was spent today and this month, how fast money goes, and where the month will end."""
    from coordination.base.money import show_usd
    from coordination.cli.tables import fields
    from coordination.domain.forecast.forecasts import CONFIDENCE, LEAST

    with connected() as co:
        found = co.costs.forecast(project=project)
    if as_json:
        print_json({"project": project, "confidence_percent": CONFIDENCE, "outlook": found})
        return
    ends = found.forecast
    cents = [show_usd(round(amount, 2)) for amount in ((ends.usd, ends.low, ends.high) if ends else ())]
    fields(
        [
            ("day", f"{found.day} ({found.zone})"),
            ("spent today", show_usd(found.spent_today_usd)),
            ("spent this month", show_usd(found.spent_month_usd)),
            ("pace", f"{show_usd(found.burn.per_day)} a day, {show_usd(found.burn.per_hour)} an hour"),
            ("month's end", f"{cents[0]}, with {CONFIDENCE} % between {cents[1]} and {cents[2]}" if ends else None),
            ("taken from", f"{ends.days} days, by {ends.method}" if ends else None),
        ]
    )
    if ends is None:
        print(f"Where the month will end cannot be told yet: that takes {LEAST} whole days with costs before today.")
    if found.unpriced_month:
        print(f"{found.unpriced_month:,} calls of this month are of unknown price and not in it: coord costs reprice")


def check(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Make right what is wrong. Safe beside work.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that the sums are those of the ledger's records, to the last digit; exit code 1 when they are not."""
    from coordination.base.errors import NOT_COMPLETED

    with connected() as co:
        found = co.costs.check(repair=repair)
    if as_json:
        examples = [{**cell._asdict(), "missing": missing} for cell, missing in found.examples]
        print_json(
            {
                "right": found.repaired or (found.complete and not found.wrong),
                "zone": found.zone,
                "wrong": found.wrong,
                "repaired": found.repaired,
                "examples": examples,
            }
        )
    else:
        _say(found)
    if not found.repaired and (found.wrong or not found.complete):
        raise typer.Exit(NOT_COMPLETED)


def _say(found: LedgerCheck) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    rows = [
        (cell.dimension, cell.key or "(none)", cell.grain, cell.starts, missing.calls, show_usd(missing.cost_usd))
        for cell, missing in found.examples
    ]
    if rows:
        show(["sum of", "which", "over", "from", "calls missing", "dollars missing"], rows)
    if found.repaired:
        print(f"{found.wrong:,} sums were wrong; now they are those of the records.")
    elif found.wrong:
        print(f"{found.wrong:,} sums are not those of the records. Make them right: coord costs check --repair")
    elif not found.complete:
        print("The sums were never counted, so the ledger itself is asked. Count them: coord costs check --repair")
    else:
        print("All sums are those of the records.")


def timezone(
    zone: Annotated[str | None, typer.Argument(metavar="[ZONE]", help="Such as Europe/Berlin.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show where days and months begin, or let them begin elsewhere and count all sums again."""
    with connected() as co:
        if zone is not None:
            co.costs.set_timezone(zone)
        now = co.costs.timezone
    if as_json:
        print_json({"timezone": now})
    else:
        print(f"Days and months begin in {now}.")
