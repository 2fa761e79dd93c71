"""``coord status``: the whole system on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from coordination.base.ids import SHORT
from coordination.base.wording import plural
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.projects.stopping import show_stops
from coordination.domain.tasks.next_steps import Situation, sentence, steps
from coordination.domain.tasks.runs import RunState
from coordination.views import fleet as views

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
    """Show running tasks with their last sign of progress, projects, runs, workers, queues, budgets, today's cost."""
    from coordination.store.queries.projects import stops
    from coordination.store.queries.tasks import outdated
    from coordination.store.reports.projects.overview import overview

    with connected() as co:
        runtime = co.runtime
        with runtime.store.read() as tx:
            system = overview(
                tx,
                runtime.workspace_id,
                thresholds=runtime.settings.supervision(),
                live_within=runtime.settings.lease_ttl,
            )
            stopped = stops.list_active(tx, runtime.workspace_id)
            old = outdated.of_workspace(tx, runtime.workspace_id, most=_MOST_OUTDATED)
        queues = _queues(runtime)
        holding = [one for one in co.budgets.list() if one.waiting]
    if as_json:
        print_json(views.status(system, stops=stopped, queues=queues, budgets=holding, outdated=old))
    else:
        show_stops(stopped)
        _show(system, queues, holding)
        if old:
            print("\noutdated (what to do: coord explain TASK)")
            for one in old:
                print(f"  {one.key} of run {one.run_id}: {one.sentence()}")


def _show_running(system: Overview) -> None:
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
            for one in system.running
        ],
        empty="Nothing runs.",
    )
    if (more := system.running_in_all - len(system.running)) > 0:
        print(f"and {plural(more, 'more task')}")


def _queues(runtime: Runtime) -> dict[str, Any]:
    """Return the lengths of the queues, or why they are unknown."""
    from coordination.base.errors import RedisUnavailable
    from coordination.store.redis.queues import read_status

    if runtime.wakeups is None:
        return {"reachable": False, "error": None, "lengths": {}}
    try:
        return {"reachable": True, "error": None, "lengths": read_status(runtime.wakeups.url).lengths}
    except RedisUnavailable as error:
        return {"reachable": False, "error": error.message, "lengths": {}}


def _show(system: Overview, queues: dict[str, Any], holding: Sequence[BudgetStatus]) -> None:
    from coordination.base.money import show_usd
    from coordination.cli.money.budgets import budget_table
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
            for one in system.projects
        ],
        empty="No projects yet. Start with: coord run PLAN",
    )
    print()
    show(
        ["run", "project", "state", "tasks"],
        [
            (run.id, run.project, run.state, ", ".join(f"{number} {state}" for state, number in run.counts.items()))
            for run in system.runs
        ],
        empty="No open runs.",
    )
    print()
    _show_running(system)
    print()
    if holding:
        print("budgets for which tasks wait (what to do: coord explain TASK)")
        budget_table(holding)
        print()
    stuck = [run for run in system.runs if run.state is RunState.STUCK]
    for run in stuck:
        print(f"run {run.id} cannot continue by itself; {sentence(steps(Situation.RUN_STUCK, run=run.id))}")
    if stuck:
        print()
    show(
        ["worker", "host", "busy", "of", "since"],
        [
            (one.name, one.host, one.busy, f"{one.slots}{' (draining)' if one.draining else ''}", one.started_at)
            for one in system.workers
        ],
        empty="No worker is alive. Start a stack with: coord up",
    )
    print()
    if queues["reachable"]:
        print("queues: " + ", ".join(f"{name} {length}" for name, length in queues["lengths"].items()))
    else:
        print("queues: " + (queues["error"] or "no Redis runs here"))
    unknown = f" and {plural(system.unpriced_today, 'call')} of unknown price" if system.unpriced_today else ""
    print(f"today:  {show_usd(system.cost_today_usd)}{unknown}")
