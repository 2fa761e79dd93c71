"""JSON forms of the system's status, of workers, checks and retention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coordination.views import money, projects, tasks
from coordination.views.fields import fields_of

if TYPE_CHECKING:
    from coordination.domain.fleet.health import Finding
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.projects.stops import Stop
    from coordination.domain.tasks.outdated import OutdatedTask
    from coordination.flows.projects.retain import RetentionResult
    from coordination.settings import Settings
    from coordination.store.reports.projects.overview import Overview, ProjectLine, WorkerLine
    from coordination.store.reports.tasks.running import RunningTask

RETAINED = (
    *("runs", "tasks", "attempts", "artifacts", "merges", "output_chunks", "dependencies", "task_holds", "events"),
    *("sessions", "workers", "costs"),
)
"""The tables whose deleted rows are shown."""


def worker(record: WorkerLine) -> dict[str, Any]:
    """Return a living worker."""
    return fields_of(record)


def running_task(record: RunningTask) -> dict[str, Any]:
    """Return a running attempt and its last sign of progress."""
    return fields_of(record)


def active_project(record: ProjectLine) -> dict[str, Any]:
    """Return a project's open work, its supervisor and today's cost."""
    return fields_of(record)


def overview(record: Overview) -> dict[str, Any]:
    """Return the state of the system in the database."""
    return {
        "projects": [active_project(project) for project in record.projects],
        "runs": [tasks.run(run) for run in record.runs],
        "running": [running_task(task) for task in record.running],
        "running_in_all": record.running_in_all,
        "workers": [worker(each) for each in record.workers],
        "cost_today_usd": record.cost_today_usd,
        "unpriced_calls_today": record.unpriced_today,
    }


def status(
    record: Overview,
    *,
    stops: Sequence[Stop],
    queues: Mapping[str, Any],
    budgets: Sequence[BudgetStatus],
    outdated: Sequence[OutdatedTask],
) -> dict[str, Any]:
    """Return the state of the whole system. *budgets*: those for which tasks wait."""
    return overview(record) | {
        "stops": [projects.stop(stop) for stop in stops],
        "queues": queues,
        "budgets": [money.budget(status) for status in budgets],
        "outdated": [{"task": task.key, "id": task.task_id, "run": task.run_id, **task.to_json()} for task in outdated],
    }


def diagnosis(
    *,
    healthy: bool,
    python: str,
    versions: Mapping[str, str | None],
    settings: Mapping[str, Any],
    checks: Sequence[Any],
) -> dict[str, Any]:
    """Return the result of coord doctor."""
    return {"healthy": healthy, "python": python, "versions": versions, "settings": settings, "checks": checks}


def finding(record: Finding) -> dict[str, Any]:
    """Return a finding of coord doctor --live."""
    return fields_of(record)


def findings(records: Sequence[Finding], *, healthy: bool) -> dict[str, Any]:
    """Return the result of coord doctor --live."""
    return {"healthy": healthy, "findings": [finding(record) for record in records]}


def retention(record: RetentionResult, settings: Settings, *, dry_run: bool) -> dict[str, Any]:
    """Return the result of a deletion by age."""
    return {
        "dry_run": dry_run,
        "older_than": {name: getattr(settings, f"retention_{name}") or None for name in ("runs", "workers", "costs")},
        "rows": {name: record.rows[name] for name in RETAINED},
        "needed": record.needed,
        "archives": [str(path) for path in record.archives],
    }
