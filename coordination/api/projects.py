"""Projects in the Python API: list, create, change, pause and resume them; their limits and gates.

co.projects.pause("shop")
co.projects.set_limits("shop", {"project": 4, "agent:ann": 1})
co.projects.resume("shop")
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from coordination.adapters import git_checkout
from coordination.api.budgets import replace_project_budgets
from coordination.api.names import find_project
from coordination.domain.jobs.checkouts import Gate, parse_gates
from coordination.domain.money.budgets import BudgetPeriod
from coordination.domain.money.sessions import Session
from coordination.domain.projects.projects import Project, ProjectStatus, identity_of
from coordination.domain.tasks.tasks import RunRecord
from coordination.flows.projects.change_project import change_project, end_project, pause_project, resume_project
from coordination.runtime import Runtime
from coordination.services.holds.slots import set_limits
from coordination.services.projects import projects as service
from coordination.store.queries.issues import issues
from coordination.store.queries.projects import projects as rows
from coordination.store.queries.tasks import runs, slots
from coordination.store.reports.fleet import supervision
from coordination.store.reports.money import spending
from coordination.store.reports.money.spending import Spending
from coordination.store.reports.projects import project_summary
from coordination.store.reports.projects.project_summary import ProjectTotals

_NEWEST = 10


class ProjectDetails(NamedTuple):
    """Everything that belongs to a project. *orchestrator*: its supervisor; *sessions*: each with its cost, if any."""

    aliases: Sequence[str]
    totals: ProjectTotals
    orchestrator: Mapping[str, Any]
    limits: Sequence[dict[str, Any]]
    sessions: Sequence[tuple[Session, Spending | None]]
    runs: Sequence[RunRecord]
    issues: int


class Projects:
    """The projects of a workspace: ``co.projects``. Each is named by its name, identity, alias or id.

    Raises NotFound for a name that no project has.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def list(self, *, archived: bool = False) -> builtins.list[Project]:
        """Return all projects; archived ones only with *archived*."""
        projects = self._runtime.read(rows.list_projects)
        return [project for project in projects if archived or project.status is not ProjectStatus.ARCHIVED]

    def list_with_totals(self, *, archived: bool = False) -> builtins.list[tuple[Project, ProjectTotals]]:
        """Return all projects with their totals; archived ones only with *archived*."""
        totals = self._runtime.read(project_summary.totals)
        return [(project, totals.get(project.id, ProjectTotals())) for project in self.list(archived=archived)]

    def details(self, project: Project) -> ProjectDetails:
        """Return everything that belongs to a project."""
        workspace_id, thresholds = self._runtime.workspace_id, self._runtime.settings.supervision()
        with self._runtime.store.read() as tx:
            totals = project_summary.totals(tx, workspace_id, project_id=project.id)
            spent = spending.spending(tx, workspace_id, by="session", project_id=project.id)
            by_session = {group.key: group for group in spent}
            sessions = runs.list_sessions(tx, workspace_id, project_id=project.id)
            return ProjectDetails(
                aliases=rows.aliases(tx, workspace_id, project.id),
                totals=totals.get(project.id, ProjectTotals()),
                orchestrator=supervision.orchestrator(tx, workspace_id, project.id, thresholds=thresholds),
                limits=slots.list_slots(tx, workspace_id, project.id),
                sessions=[(session, by_session.get(session.id)) for session in sessions],
                runs=runs.list_runs(tx, workspace_id, project_id=project.id, limit=_NEWEST),
                issues=issues.count(tx, workspace_id, project.id),
            )

    def create(self, name: str, *, remote: str | None = None, description: str | None = None) -> Project:
        """Create the project of a git *remote*, or of the current folder. Raises Refused when it exists."""
        here = None if remote else git_checkout.checkout_of()
        identity = here.identity if here else identity_of(remote or "")
        path = str(here.root) if here else None

        def store(tx: Connection, workspace_id: str) -> str:
            created = service.create(tx, workspace_id, identity=identity, name=name, path=path)
            service.amend(tx, workspace_id, created, description=description)
            return created.id

        return find_project(self._runtime, self._runtime.transact(store))

    def change(
        self,
        project: str,
        *,
        name: str | None = None,
        description: str | None = None,
        settings: Mapping[str, Any] | None = None,
        models: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        budgets: Mapping[BudgetPeriod, Mapping[str, Any] | None] | None = None,
    ) -> Project:
        """Change the given fields; None removes a key. Return the changed project.

        *models*: the lists ``allow`` and ``deny`` of model names. *budgets*: by period; each replaces the project's.
        """
        fields = {"settings": settings or {}, "model_restrictions": models or {}, "metadata": metadata or {}}
        actor = self._runtime.actor

        def store(tx: Connection, workspace_id: str) -> str:
            present = service.find(tx, workspace_id, project)
            change_project(tx, workspace_id, present, actor=actor, name=name, description=description, merged=fields)
            replace_project_budgets(tx, self._runtime, present.id, budgets or {})
            return present.id

        project_id = self._runtime.transact(store)
        if budgets or settings or models:
            self._runtime.wake_project(project_id)
        return find_project(self._runtime, project_id)

    def pause(self, project: str) -> None:
        """Start no more tasks of the project; running jobs continue. Its status is then ``on_hold``."""
        project_id = find_project(self._runtime, project).id
        self._runtime.transact(pause_project, project_id)

    def resume(self, project: str) -> int:
        """Make a paused, completed or archived project active again; return how many tasks are queued again."""
        runtime, project_id = self._runtime, find_project(self._runtime, project).id
        queued = runtime.transact(resume_project, project_id, actor=runtime.actor)
        runtime.wake_project(project_id)
        return queued

    def complete(self, project: str) -> Project:
        """Mark the project as completed. Raises Refused while a run of it is open."""
        return self._end(project, ProjectStatus.COMPLETED)

    def archive(self, project: str) -> Project:
        """Archive the project: it refuses new work until it is resumed. Raises Refused while a run of it is open."""
        return self._end(project, ProjectStatus.ARCHIVED)

    def add_alias(self, project: str, remote: str) -> str:
        """Add another git remote to the project; return the identity of that remote."""
        identity, target = identity_of(remote), find_project(self._runtime, project)
        self._runtime.transact(service.rename_remote, target, identity)
        return identity

    def limits(self, project: str) -> builtins.list[dict[str, Any]]:
        """Return the limits on parallel tasks: name, used and cap of each."""
        return self._runtime.read(slots.list_slots, find_project(self._runtime, project).id)

    def set_limits(self, project: str, caps: Mapping[str, int | None]) -> builtins.list[dict[str, Any]]:
        """Limit parallel tasks by ``project``, ``agent:NAME`` or ``key:NAME`` (None: no limit); return all limits."""
        project_id = find_project(self._runtime, project).id
        limits = self._runtime.transact(set_limits, project_id, caps)
        self._runtime.wake_project(project_id)
        return limits

    def set_gates(self, project: str, gates: Sequence[Gate]) -> Project:
        """Set the commands that must succeed before a task counts as completed; an empty list removes them."""
        value = [gate.to_json() for gate in parse_gates(list(gates))] or None

        def store(tx: Connection, workspace_id: str) -> Project:
            present = service.find(tx, workspace_id, project)
            service.amend(tx, workspace_id, present, merged={"settings": {"gates": value}})
            return service.find(tx, workspace_id, present.id)

        return self._runtime.transact(store)

    def _end(self, project: str, status: ProjectStatus) -> Project:
        target = find_project(self._runtime, project)
        self._runtime.transact(end_project, target.id, status)
        return find_project(self._runtime, target.id)
