"""``coord status``: the whole system on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from coordination.base.ids import SHORT
from coordination.base.wording import plural
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.stopping import show_stops
from coordination.domain.tasks.next_steps import Situation, sentence, steps
from coordination.domain.tasks.runs import RunState

if TYPE_CHECKING:
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.runtime import Runtime
    from coordination.store.reports.projects.overview import Overview

_MOST_OUTDATED = 10


_SAYS = 60


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("status")(status)


def status(*, as_json: AsJson = False) -> None:
    """What runs now with its last sign of progress; projects, open runs, workers, queues, budgets, today's cost."""
    from coordination.store.queries.projects import stops
    from coordination.store.queries.tasks import outdated
    from coordination.store.reports.projects.overview import overview

    with connected() as co:
        runtime = co.runtime
        with runtime.store.read() as tx:
            found = overview(
                tx,
                runtime.workspace_id,
                thresholds=runtime.settings.supervision(),
                live_within=runtime.settings.lease_ttl,
            )
            stopped = stops.active(tx, runtime.workspace_id)
            old = outdated.of_workspace(tx, runtime.workspace_id, most=_MOST_OUTDATED)
        queues = _queues(runtime)
        holding = [one for one in co.budgets.list() if one.waiting]
    if as_json:
        print_json(
            {
                "stops": stopped,
                "projects": found.projects,
                "runs": [
                    {"id": run.id, "project": run.project, "name": run.name, "state": run.state, "counts": run.counts}
                    for run in found.runs
                ],
                "running": found.running,
                "running_in_all": found.running_in_all,
                "workers": found.workers,
                "queues": queues,
                "budgets": [one.to_json() for one in holding],
                "cost_today_usd": found.cost_today_usd,
                "unpriced_calls_today": found.unpriced_today,
                "outdated": [{"task": one.key, "id": one.task_id, "run": one.run_id, **one.to_json()} for one in old],
            }
        )
    else:
        show_stops(stopped)
        _show(found, queues, holding)
        if old:
            print("\noutdated (what to do: coord explain TASK)")
            for one in old:
                print(f"  {one.key} of run {one.run_id}: {one.sentence()}")


def _show_running(found: Overview) -> None:
    from coordination.base.durations import show_duration
    from coordination.base.money import show_usd
    from coordination.cli.tables import show, shown

    show(
        ["running", "project", "run", "attempt", "since", "last sign", "ago", "cost", "says"],
        [
            (
                one.key,
                one.project,
                one.run or one.run_id[-SHORT:],
                one.attempt,
                show_duration(one.now - one.started_at),
                one.sign,
                show_duration(max(one.now - one.sign_at, timedelta(0))),
                show_usd(one.cost_usd) + (f" + {one.unpriced_calls} unknown" if one.unpriced_calls else ""),
                shown(one.report)[:_SAYS] if one.report else "",
            )
            for one in found.running
        ],
        empty="Nothing runs.",
    )
    if (more := found.running_in_all - len(found.running)) > 0:
        print(f"and {plural(more, 'more task')}")


def _queues(runtime: Runtime) -> dict[str, Any]:
    """Lengths by queue; or why they are not known."""
    from coordination.base.errors import RedisUnavailable
    from coordination.store.redis.queues import look

    if runtime.nudges is None:
        return {"reachable": False, "error": None, "lengths": {}}
    try:
        return {"reachable": True, "error": None, "lengths": look(runtime.nudges.url).lengths}
    except RedisUnavailable as error:
        return {"reachable": False, "error": error.message, "lengths": {}}


def _show(found: Overview, queues: dict[str, Any], holding: Sequence[BudgetStatus]) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.budgets import budget_table
    from coordination.cli.tables import show, shown

    show(
        ["project", "status", "supervisor", "open runs", "open tasks", "cost today", "error"],
        [
            (
                one.name,
                f"{one.status} (stopped)" if one.stopped else one.status,
                one.supervisor,
                one.open_runs,
                one.open_tasks,
                show_usd(one.cost_today_usd),
                f"since {shown(one.error_since)}: {one.error}" if one.error else "",
            )
            for one in found.projects
        ],
        empty="No projects yet. Start with: coord run PLAN",
    )
    print()
    show(
        ["run", "project", "state", "tasks"],
        [
            (run.id, run.project, run.state, ", ".join(f"{number} {state}" for state, number in run.counts.items()))
            for run in found.runs
        ],
        empty="No open runs.",
    )
    print()
    _show_running(found)
    print()
    if holding:
        print("budgets for which tasks wait (what to do: coord explain TASK)")
        budget_table(holding)
        print()
    stuck = [run for run in found.runs if run.state is RunState.STUCK]
    for run in stuck:
        print(f"run {run.id} cannot go on by itself; {sentence(steps(Situation.RUN_STUCK, run=run.id))}")
    if stuck:
        print()
    show(
        ["worker", "host", "busy", "of", "since"],
        [
            (one.name, one.host, one.busy, f"{one.slots}{' (draining)' if one.draining else ''}", one.started_at)
            for one in found.workers
        ],
        empty="No worker is alive. Start a stack with: coord up",
    )
    print()
    if queues["reachable"]:
        print("queues: " + ", ".join(f"{name} {length}" for name, length in queues["lengths"].items()))
    else:
        print("queues: " + (queues["error"] or "no Redis runs here"))
    unknown = f" and {plural(found.unpriced_today, 'call')} of unknown price" if found.unpriced_today else ""
    print(f"today:  {show_usd(found.cost_today_usd)}{unknown}")
