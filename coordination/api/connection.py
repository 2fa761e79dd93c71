"""The connection of the Python API: submit plans, find runs and tasks, stop and start work; areas are attributes.

co = connect()
run = co.submit(Plan([Task("lint", {"shell": "ruff check ."})]))
run.wait(timeout=60)
print(run.task("lint").output, run.cost)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection

from coordination.adapters import git_checkout
from coordination.adapters.account_store import Accounts
from coordination.api.agents import Agents
from coordination.api.budgets import Budgets
from coordination.api.costs import Costs
from coordination.api.issues import Issues
from coordination.api.names import find_project, find_project_id, find_run, find_task
from coordination.api.prices import Prices
from coordination.api.projects import Projects
from coordination.api.questions import Questions
from coordination.api.runs import Run
from coordination.api.stops import PATIENCE, current_stop, start_work, stop_and_wait
from coordination.api.tasks import TaskHandle, add_to_run
from coordination.base import gc_tuning
from coordination.base.errors import Refused
from coordination.domain.forecast.predictions import Prediction
from coordination.domain.issues.record import Issue
from coordination.domain.plans.plans import Plan, Task
from coordination.domain.projects.projects import Project, identity_of, short_name
from coordination.domain.projects.stops import StartResult, Stop, StopResult
from coordination.domain.tasks.tasks import RunRecord as RunRecord
from coordination.flows.forecast.simulate_plan import simulate_plan
from coordination.flows.plans.submit_plan import PlanOrigin, SubmittedRun, submit_plan
from coordination.runtime import Runtime, open_runtime
from coordination.services.fleet.broker_keys import rotate
from coordination.settings import Settings, load_settings
from coordination.store.queries.tasks import runs


def connect(settings: Settings | None = None, *, migrate: bool = False) -> Coordination:
    """Connect to the stack of the environment: COORD_DATABASE_URL and COORD_REDIS_URL, or the one of COORD_HOME.

    ``migrate`` creates or updates the schema first. Raises SettingsError, DatabaseUnavailable or SchemaMismatch.
    """
    return Coordination(open_runtime(settings or load_settings(), migrate=migrate))


class Coordination:
    """A connection. Close it, or use it as a context manager; handles work until then.

    Areas are attributes: ``agents``, ``accounts``, ``budgets``, ``costs``, ``issues``, ``prices``, ``projects``,
    ``questions``.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.accounts = Accounts(runtime.settings.home, refusal=runtime.store.refusal)
        self.agents = Agents(runtime)
        self.budgets = Budgets(runtime)
        self.costs = Costs(runtime)
        self.issues = Issues(runtime)
        self.prices = Prices(runtime)
        self.projects = Projects(runtime)
        self.questions = Questions(runtime)

    def submit(
        self, plan: Plan, *, metadata: Mapping[str, Any] | None = None, issues: Sequence[Issue] | None = None
    ) -> Run:
        """Store *plan* as a new run, notify a worker and return the handle at once.

        The project is the plan's, or the git repository of the current folder. *issues* become the project's, linked
        to the tasks that work on them, in the same transaction. Raises PlanError or Refused with nothing stored.
        """
        runtime = self.runtime
        origin = find_origin(plan, actor=runtime.actor, metadata=metadata or {})

        def store(tx: Connection) -> SubmittedRun:
            with gc_tuning.collection_paused():  # not while it waits for the database
                return submit_plan(
                    tx, runtime.workspace_id, plan, origin, lifetime=runtime.settings.supervisor_lifetime, issues=issues
                )

        submitted = runtime.store.transact(store, patience=timedelta(seconds=30))
        runtime.wake_project(submitted.project_id)
        return Run(runtime, submitted.run_id)

    def create(self, task: Task, *, run: Run | None = None) -> TaskHandle:
        """Store a single task without a plan, in an existing *run* or a new one, and notify a worker.

        A run that has ended is reopened. Raises NotFound, PlanError or Refused with nothing stored.
        """
        if run is None:
            return self.submit(Plan([task], name=task.key)).task(task.key)
        add_to_run(self.runtime, run.id, task)
        return run.task(task.key)

    def run(self, name: str, *, project: str | None = None) -> Run:
        """Return the run with that id, or that unique part of an id or name (the newest) in a project.

        Without *project* the project of the current folder is searched; where there is none, only one run may have
        that name. A part of an id has at least four letters. Raises NotFound or Refused.
        """
        return Run(self.runtime, find_run(self.runtime, name, project_id=find_project_id(self.runtime, project)))

    def runs(self, *, project: str | None = None, limit: int = 50) -> list[RunRecord]:
        """Return the newest runs, of one project or of all."""
        return self.runtime.read(runs.list_runs, project_id=find_project_id(self.runtime, project), limit=limit)

    def task(self, name: str, *, project: str | None = None) -> TaskHandle:
        """Return the task with that id, or that unique part of an id or key (of the newest run) in a project.

        See ``run`` for *project*.
        """
        return TaskHandle(
            self.runtime, find_task(self.runtime, name, project_id=find_project_id(self.runtime, project))
        )

    def project(self, name: str) -> Project:
        """Return the project of that name, identity, alias or id."""
        return find_project(self.runtime, name)

    def simulate(
        self, plan: Plan, *, slots: int | None = None, assume: timedelta | None = None, seed: int = 0
    ) -> Prediction:
        """Predict duration and cost of *plan* in its project from similar jobs; nothing is stored.

        *slots*: the number of parallel jobs (default: as many as the living workers, else one worker, run). *assume*:
        the duration of jobs without history. The same *seed* gives the same result. Raises PlanError or Refused.
        """
        settings = self.runtime.settings
        predict = self.runtime.read(
            simulate_plan,
            plan,
            find_origin(plan, actor=self.runtime.actor, metadata={}).identity,
            slots=slots,
            live_within=settings.lease_ttl,
            default_slots=settings.slots,
            assume=assume,
        )
        return predict(seed=seed)

    def stop(
        self,
        project: str | None = None,
        *,
        reason: str | None = None,
        now: bool = False,
        timeout: float | timedelta = PATIENCE,
    ) -> StopResult:
        """Stop the project, or the whole workspace (None); return the in-flight attempts, and how each ended.

        Nothing starts after the first commit. Running jobs get a grace period (*now*: none) and are handed back;
        ``start`` continues the same work. Waits until all have ended, at most *timeout* (seconds): see
        ``StopResult.silent``. Repeating a stop checks again. Raises Refused in a job.
        """
        return stop_and_wait(
            self.runtime, find_project_id(self.runtime, project), reason=reason, now=now, timeout=timeout
        )

    def start(self, project: str | None = None) -> StartResult:
        """End the stop of the project, or of the workspace (None). Raises Refused in a job.

        A stop of the other kind stays in force: see ``StartResult.still``.
        """
        return start_work(self.runtime, find_project_id(self.runtime, project))

    def stopped(self, project: str | None = None) -> Stop | None:
        """Return the stop of the workspace, or else that of the project; None when nothing is stopped."""
        return current_stop(self.runtime, find_project_id(self.runtime, project))

    def replace_broker_key(self) -> None:
        """Replace the key that signs messages; processes use the new one within a minute. Raises Refused in a job."""
        rotate(self.runtime.store)

    def close(self) -> None:
        """Close all connections."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_origin(plan: Plan, *, actor: str, metadata: Mapping[str, Any]) -> PlanOrigin:
    """Return the origin of the plan. Raises Refused when its folder does not exist."""
    reference = plan.project
    folder = Path(reference.path) if reference.path else Path.cwd()
    if not folder.is_dir():
        raise Refused(f"The project's folder {folder} does not exist")
    if reference.git_remote is not None:  # git, a process for each query, is only needed for the folder
        identity = identity_of(reference.git_remote, machine=git_checkout.machine())
        name, root = reference.name or short_name(identity), git_checkout.top_folder(folder)
    else:
        here = git_checkout.checkout_of(folder)
        identity, name, root = here.identity, reference.name or here.name, here.root
    return PlanOrigin(identity=identity, name=name, creator=actor, path=str(root), metadata=metadata)
