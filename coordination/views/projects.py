"""JSON forms of projects, their limits, gates and sessions, and of stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from coordination.views import money, tasks
from coordination.views.fields import fields_of

if TYPE_CHECKING:
    from coordination.domain.jobs.checkouts import Gate
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.money.costs import CostRecord
    from coordination.domain.money.sessions import Session
    from coordination.domain.projects.projects import Project
    from coordination.domain.projects.stops import StartResult, Stop, StoppedAttempt, StopResult
    from coordination.domain.tasks.tasks import RunRecord
    from coordination.store.reports.money.spending import Spending
    from coordination.store.reports.projects.project_summary import ProjectTotals


def project(record: Project, budgets: Sequence[BudgetStatus] = ()) -> dict[str, Any]:
    """Return a project with its own budgets."""
    view = fields_of(record, without=["workspace_id", "budgets"])
    return view | {"budgets": [money.budget(status) for status in budgets]}


def projects(records: Sequence[tuple[Project, ProjectTotals]], budgets: Sequence[BudgetStatus]) -> dict[str, Any]:
    """Return a list of projects with their totals."""
    rows = [
        project(record, [budget for budget in budgets if budget.budget.subject == record.id]) | {"totals": totals}
        for record, totals in records
    ]
    return {"projects": rows}


def project_details(
    record: Project,
    *,
    budgets: Sequence[BudgetStatus],
    aliases: Sequence[str],
    totals: ProjectTotals,
    orchestrator: Mapping[str, Any],
    limits: Sequence[Mapping[str, Any]],
    sessions: Sequence[tuple[Session, Spending | None]],
    runs: Sequence[RunRecord],
    issues: int,
) -> dict[str, Any]:
    """Return a project with everything that belongs to it. *orchestrator*: the status of its supervisor."""
    return project(record, budgets) | {
        "aliases": aliases,
        "totals": totals,
        "orchestrator": orchestrator,
        "limits": limits,
        "sessions": [_session_with_cost(session, spent) for session, spent in sessions],
        "runs": [tasks.run(run) for run in runs],
        "issues": issues,
    }


def project_limits(name: str, limits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the limits of a project."""
    return {"project": name, "limits": limits}


def project_gates(name: str, gates: Sequence[Gate]) -> dict[str, Any]:
    """Return the gates of a project."""
    return {"project": name, "gates": [gate.to_json() for gate in gates]}


def workspace(**facts: Any) -> dict[str, Any]:
    """Return *facts* about the workspace."""
    return facts


def session(record: Session) -> dict[str, Any]:
    """Return a session."""
    return fields_of(record, without=["workspace_id"])


def session_details(
    session_id: str,
    record: Session | None,
    *,
    cost_usd: Decimal,
    calls: int,
    unpriced_calls: int,
    costs: Sequence[CostRecord],
) -> dict[str, Any]:
    """Return a session with its latest cost records. *record*: None for a session that only cost records name."""
    return {
        "id": session_id,
        "session": None if record is None else session(record),
        "cost_usd": cost_usd,
        "calls": calls,
        "unpriced_calls": unpriced_calls,
        "costs": [money.cost(one) for one in costs],
    }


def stop(record: Stop) -> dict[str, Any]:
    """Return a stop of a project or of the workspace."""
    return {
        "id": record.id,
        "project": record.project,
        "since": record.since,
        "by": record.actor,
        "reason": record.reason,
        "now": record.at_once,
    }


def stop_result(record: StopResult) -> dict[str, Any]:
    """Return the result of a stop: the in-flight attempts and the end of each."""
    return {
        "stop": stop(record.stop),
        "new": record.new,
        "silent": record.silent,
        "claiming": record.claiming,
        "attempts": [stopped_attempt(attempt) for attempt in record.attempts],
    }


def start_result(record: StartResult) -> dict[str, Any]:
    """Return the result of a start: the stop that has ended, and those that stay in force."""
    return {
        "ended": None if record.ended is None else stop(record.ended),
        "queued": record.queued,
        "still": [stop(each) for each in record.still],
    }


def stopped_attempt(record: StoppedAttempt) -> dict[str, Any]:
    """Return an attempt that was in flight at a stop."""
    return {
        "project": record.project,
        "run": record.run_id,
        "task": record.task,
        "task_id": record.task_id,
        "attempt": record.attempt,
        "worker": record.worker,
        "host": record.host,
        "started_at": record.started_at,
        "progress_at": record.progress_at,
        "worker_heard_at": record.heard_at,
        "finished_at": record.finished_at,
        "outcome": record.outcome,
        "outcome_unknown": record.unknown,
        "error": record.error,
        "cost_usd": record.cost_usd,
        "unpriced_calls": record.unpriced_calls,
        "known": record.words(),
    }


def _session_with_cost(record: Session, spent: Spending | None) -> dict[str, Any]:
    cost = {"calls": spent.calls if spent else 0, "cost_usd": spent.cost_usd if spent else 0}
    return session(record) | cost
