"""``coord status``: the whole system on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from coordination.base.durations import show_duration
from coordination.base.errors import RedisUnavailable
from coordination.base.ids import SHORT
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli.money.budgets import budget_table
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.projects.stopping import show_stops
from coordination.cli.tables import show, shown
from coordination.domain.tasks.next_steps import Situation, join_steps, steps
from coordination.domain.tasks.tasks import RunState
from coordination.views import fleet as views

if TYPE_CHECKING:
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.runtime import Runtime
    from coordination.store.reports.projects.overview import Overview

_MOST_OUTDATED = 10
_LONGEST_REPORT = 60


def status(*, as_json: AsJson = False) -> None:
    """Show running tasks, projects, runs, workers and costs.

    Also the last sign of progress of each task, the queues, and the budgets for which tasks wait.
    """
    from coordination.store.queries.projects import stops
    from coordination.store.queries.tasks import outdated
    from coordination.store.reports.projects.overview import overview

    with open_connection() as co:
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
        waited_for = [budget for budget in co.budgets.list() if budget.waiting]
    if as_json:
        print_json(views.status(system, stops=stopped, queues=queues, budgets=waited_for, outdated=old))
    else:
        show_stops(stopped)
        _show(system, queues, waited_for)
        if old:
            print("\noutdated (what to do: coord explain TASK)")
            for task in old:
                print(f"  {task.key} of run {task.run_id}: {task.sentence()}")


def _show_running(system: Overview) -> None:
    show(
        ["running", "project", "run", "attempt", "since", "last sign", "ago", "cost", "report"],
        [
            (
                task.key,
                task.project,
                task.run or task.run_id[-SHORT:],
                task.attempt,
                show_duration(task.now - task.started_at),
                task.sign,
                show_duration(max(task.now - task.sign_at, timedelta(0))),
                show_usd(task.cost_usd) + (f" + {task.unpriced_calls} unknown" if task.unpriced_calls else ""),
                shown(task.report)[:_LONGEST_REPORT] if task.report else "",
            )
            for task in system.running
        ],
        empty="No task is running.",
    )
    if (more := system.running_in_all - len(system.running)) > 0:
        print(f"and {plural(more, 'more task')}")


def _queues(runtime: Runtime) -> dict[str, Any]:
    """Return the lengths of the queues, or why they are unknown."""
    from coordination.store.redis.queues import read_status

    if runtime.wakeups is None:
        return {"reachable": False, "error": None, "lengths": {}}
    try:
        return {"reachable": True, "error": None, "lengths": read_status(runtime.wakeups.url).lengths}
    except RedisUnavailable as error:
        return {"reachable": False, "error": error.message, "lengths": {}}


def _show(system: Overview, queues: dict[str, Any], waited_for: Sequence[BudgetStatus]) -> None:
    show(
        ["project", "status", "supervisor", "open runs", "open tasks", "cost today", "error"],
        [
            (
                project.name,
                f"{project.status} (stopped)" if project.stopped else project.status,
                project.supervisor,
                project.open_runs,
                project.open_tasks,
                show_usd(project.cost_today_usd),
                f"since {shown(project.error_since)}: {project.error}" if project.error else "",
            )
            for project in system.projects
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
    if waited_for:
        print("budgets for which tasks wait (what to do: coord explain TASK)")
        budget_table(waited_for)
        print()
    stuck = [run for run in system.runs if run.state is RunState.STUCK]
    for run in stuck:
        print(f"run {run.id} cannot continue without a person; {join_steps(steps(Situation.RUN_STUCK, run=run.id))}")
    if stuck:
        print()
    show(
        ["worker", "host", "busy", "of", "since"],
        [
            (
                worker.name,
                worker.host,
                worker.busy,
                f"{worker.slots}{' (draining)' if worker.draining else ''}",
                worker.started_at,
            )
            for worker in system.workers
        ],
        empty="No worker is alive. Start a stack with: coord up",
    )
    print()
    if queues["reachable"]:
        print("queues: " + ", ".join(f"{name} {length}" for name, length in queues["lengths"].items()))
    else:
        print("queues: " + (queues["error"] or "no Redis is running here"))
    unknown = f" and {plural(system.unpriced_today, 'call')} of unknown price" if system.unpriced_today else ""
    print(f"today:  {show_usd(system.cost_today_usd)}{unknown}")
