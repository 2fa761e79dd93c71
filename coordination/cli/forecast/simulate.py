"""``coord simulate PLAN``: predicts duration and cost of a plan; compares a run with its prediction."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from coordination.base.clock import utc_now
from coordination.base.durations import parse_duration, show_duration
from coordination.base.money import show_usd
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.plan_files import PlanFile, Repo, read_plan
from coordination.cli.tables import fields, show, shown
from coordination.domain.tasks.tasks import RunRecord
from coordination.views import plans as views

if TYPE_CHECKING:
    from coordination.domain.forecast.predictions import Prediction

_MOST_LEGS = 40
_MOST_KINDS = 40


def simulate(
    plan: PlanFile = None,
    *,
    repo: Repo = None,
    slots: Annotated[
        int | None,
        Option(help="The number of parallel jobs (default: as many as the living workers run).", min=1, max=1_000_000),
    ] = None,
    assume: Annotated[
        str | None, Option(metavar="DURATION", help="The assumed duration of jobs without history, such as 30s.")
    ] = None,
    seed: Annotated[int, Option(help="The random seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Predict duration and cost of a plan from similar jobs. Nothing is run or stored."""
    assumed = None if assume is None else parse_duration(assume)
    checked_plan = read_plan(plan, repo)
    with open_connection() as co:
        prediction = co.simulate(checked_plan, slots=slots, assume=assumed, seed=seed)
    if as_json:
        print_json(views.prediction(prediction))
    else:
        _show(prediction)


def _show(prediction: Prediction) -> None:
    usd, tokens, unpriced = prediction.usd, prediction.tokens, prediction.unpriced
    failing = f"in {prediction.failing:.0%} of {prediction.rounds:,} rounds a task fails finally"
    fields(
        [
            ("tasks", f"{prediction.tasks:,}, {prediction.slots:,} in parallel"),
            ("duration", _bound(_range(prediction.duration, show_duration), bool(prediction.untimed))),
            ("cost", _bound(_range(usd, show_usd), bool(prediction.uncosted or unpriced.p90))),
            ("tokens", _range(tokens, "{:,}".format) if tokens.p90 else None),
            ("unknown price", _range(unpriced, "{:,} calls".format) if unpriced.p90 else None),
            ("budget", _budget(prediction)),
            ("failing", failing if prediction.failing else None),
        ]
    )
    print("\nthe critical path of the median round")
    legs = prediction.path
    shown = legs if len(legs) <= _MOST_LEGS else sorted(legs, key=lambda leg: leg.took + leg.waited)[-_MOST_LEGS:]
    show(
        ["task", "duration", "waits for a slot"],
        [
            (leg.key, show_duration(leg.took), show_duration(leg.waited) if leg.waited else "")
            for leg in legs
            if leg in shown
        ],
    )
    if len(legs) > _MOST_LEGS:
        print(f"and {len(legs) - _MOST_LEGS:,} more that are shorter")
    print("\nduration and cost of one attempt (median)")
    kinds = sorted(prediction.kinds, key=lambda kind: -kind.tasks)[:_MOST_KINDS]
    show(
        ["kind", "tasks", "measured", "source", "duration", "cost"],
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
    if prediction.untimed:
        print(f"\nThe duration of these is unknown and counts as zero: {_kind_names(prediction.untimed)}.")
        print("Set it in the plan (estimate: {duration: 5m}), or for all tasks: --assume 30s")
    if prediction.uncosted:
        print(f"\nThe cost of these is unknown and counts as zero: {_kind_names(prediction.uncosted)}.")
        print("Set it in the plan: estimate: {usd: 0.25}")


def _kind_names(kinds: tuple[str, ...]) -> str:
    more = f" and {len(kinds) - _MOST_KINDS:,} more" if len(kinds) > _MOST_KINDS else ""
    return ", ".join(map(shown, kinds[:_MOST_KINDS])) + more


def _range(quantiles: Any, show: Any) -> str:
    if quantiles.p10 == quantiles.p90:
        return str(show(quantiles.p50))
    return f"{show(quantiles.p50)} ({show(quantiles.p10)} to {show(quantiles.p90)} in 8 of 10 rounds)"


def _budget(prediction: Prediction) -> str | None:
    if prediction.budget is None or prediction.within_budget is None:
        return None
    share = f"{prediction.within_budget:.0%} of {prediction.rounds:,} rounds"
    return f"{show_usd(prediction.budget)}, which is enough in {share}"


def beside(run: RunRecord) -> None:
    """Print the predicted duration and cost of a run beside the actual ones, if it has a prediction."""
    expected = run.predicted
    if expected is None:
        return
    duration = (run.finished_at or utc_now()) - run.created_at
    so_far = "" if run.finished_at else " so far"
    unknown = f" + {run.unpriced_calls} unknown" if run.unpriced_calls else ""
    spans = [show_duration(timedelta(seconds=seconds)) for seconds in expected["duration"]]
    dollars = [show_usd(Decimal(amount)) for amount in expected["usd"]]
    print()
    show(
        ["", "predicted", "in 8 of 10 rounds", "actual"],
        [
            (
                "duration",
                _bound(spans[1], bool(expected["untimed"])),
                f"{spans[0]} to {spans[2]}",
                show_duration(duration) + so_far,
            ),
            (
                "cost",
                _bound(dollars[1], bool(expected["uncosted"] or expected["unpriced"][2])),
                f"{dollars[0]} to {dollars[2]}",
                show_usd(run.cost_usd) + unknown + so_far,
            ),
        ],
    )


def _bound(amount: str, is_lower_bound: bool) -> str:
    return f"at least {amount}" if is_lower_bound else amount
