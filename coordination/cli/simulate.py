"""``coord simulate PLAN``: what a plan would take and cost; and, of a run, what was expected beside what came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.work import PlanFile, Repo

if TYPE_CHECKING:
    from coordination.domain.forecast.predictions import Prediction
    from coordination.domain.tasks.runs import RunRecord

_MOST_LEGS = 40
_MOST_KINDS = 40


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("simulate")(simulate)


def simulate(
    plan: PlanFile = None,
    *,
    repo: Repo = None,
    slots: Annotated[
        int | None,
        typer.Option(help="Jobs at once (default: as many as the living workers run).", min=1, max=1_000_000),
    ] = None,
    assume: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long jobs take of which nothing is known, such as 30s.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one plays other rounds.")] = 0,
    as_json: AsJson = False,
) -> None:
    """What a plan would take and cost, by what jobs like its own took before. Nothing is run or stored."""
    from coordination.base.durations import parse_duration
    from coordination.cli.work import planned

    assumed = None if assume is None else parse_duration(assume)
    what = planned(plan, repo)
    with connected() as co:
        found = co.simulate(what, slots=slots, assume=assumed, seed=seed)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: Prediction) -> None:
    from coordination.base.durations import show_duration
    from coordination.base.money import show_usd
    from coordination.cli.tables import fields, show

    at_least = "at least " if found.untimed else ""
    fields(
        [
            ("tasks", f"{found.tasks:,}, {found.slots:,} at once"),
            ("duration", at_least + _range(found.duration, show_duration)),
            ("cost", ("at least " if found.uncosted or found.unpriced.p90 else "") + _range(found.usd, show_usd)),
            ("tokens", _range(found.tokens, lambda count: f"{count:,}") if found.tokens.p90 else None),
            ("unknown price", _range(found.unpriced, lambda count: f"{count:,} calls") if found.unpriced.p90 else None),
            ("budget", _budget(found)),
            (
                "failing",
                f"in {found.failing:.0%} of {found.rounds:,} rounds a task fails for good" if found.failing else None,
            ),
        ]
    )
    print("\nthe critical path, of the round in the middle")
    legs = found.path
    shown = legs if len(legs) <= _MOST_LEGS else sorted(legs, key=lambda leg: leg.took + leg.waited)[-_MOST_LEGS:]
    show(
        ["task", "takes", "waits for a slot"],
        [
            (leg.key, show_duration(leg.took), show_duration(leg.waited) if leg.waited else "")
            for leg in legs
            if leg in shown
        ],
    )
    if len(legs) > _MOST_LEGS:
        print(f"and {len(legs) - _MOST_LEGS:,} more that are shorter")
    print("\nwhat one attempt takes and costs, in the middle")
    kinds = sorted(found.kinds, key=lambda kind: -kind.tasks)[:_MOST_KINDS]
    show(
        ["kind", "tasks", "seen", "known from", "takes", "costs"],
        [
            (
                kind.kind,
                f"{kind.tasks:,}",
                kind.measured,
                kind.source,
                "?" if kind.took is None else show_duration(kind.took),
                "?" if kind.usd is None else show_usd(kind.usd),
            )
            for kind in kinds
        ],
    )
    if found.untimed:
        print(f"\nHow long these take is not known, so it counts as nothing: {_named(found.untimed)}.")
        print("Say it in the plan (estimate: {duration: 5m}), or for all of them: --assume 30s")
    if found.uncosted:
        print(f"\nWhat these cost is not known, so it counts as nothing: {_named(found.uncosted)}.")
        print("Say it in the plan: estimate: {usd: 0.25}")


def _named(kinds: tuple[str, ...]) -> str:
    from coordination.cli.tables import shown

    more = f" and {len(kinds) - _MOST_KINDS:,} more" if len(kinds) > _MOST_KINDS else ""
    return ", ".join(map(shown, kinds[:_MOST_KINDS])) + more


def _range(found: Any, shown: Any) -> str:
    if found.p10 == found.p90:
        return str(shown(found.p50))
    return f"{shown(found.p50)} ({shown(found.p10)} to {shown(found.p90)} in 8 of 10 rounds)"


def _budget(found: Prediction) -> str | None:
    from coordination.base.money import show_usd

    if found.budget is None or found.within_budget is None:
        return None
    return f"{show_usd(found.budget)}, which is enough in {found.within_budget:.0%} of {found.rounds:,} rounds"


def beside(run: RunRecord) -> None:
    """What a run was expected to take and cost, beside what it took and cost; nothing where nothing was expected."""
    from decimal import Decimal

    from coordination.base.clock import utc_now
    from coordination.base.durations import show_duration
    from coordination.base.money import show_usd
    from coordination.cli.tables import show

    expected = run.predicted
    if expected is None:
        return
    took = (run.finished_at or utc_now()) - run.created_at
    so_far = "" if run.finished_at else " so far"
    unknown = f" + {run.unpriced_calls} unknown" if run.unpriced_calls else ""
    spans = [show_duration(timedelta(seconds=each)) for each in expected["duration"]]
    dollars = [show_usd(Decimal(each)) for each in expected["usd"]]
    print()
    show(
        ["", "predicted", "in 8 of 10 rounds", "actual"],
        [
            (
                "duration",
                _least(spans[1], bool(expected["untimed"])),
                f"{spans[0]} to {spans[2]}",
                show_duration(took) + so_far,
            ),
            (
                "cost",
                _least(dollars[1], bool(expected["uncosted"] or expected["unpriced"][2])),
                f"{dollars[0]} to {dollars[2]}",
                show_usd(run.cost_usd) + unknown + so_far,
            ),
        ],
    )


def _least(shown: str, unknown: bool) -> str:
    return f"at least {shown}" if unknown else shown
