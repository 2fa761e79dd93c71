"""``coord run | submit | resume``: submit plans, and follow runs to their end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from coordination.base.errors import INTERRUPTED, NOT_COMPLETED, OK, WAITS_FOR_PERSON, Refused
from coordination.base.wording import plural
from coordination.cli.issues import beads as issues
from coordination.cli.names import aim_hints, find_run
from coordination.cli.next_steps import name_of_run
from coordination.cli.options import AsJson, ProjectName, open_connection, print_json
from coordination.cli.plan_files import PlanFile, Repo, for_repository, read_plan
from coordination.cli.projects.stopping import warn_if_stopped
from coordination.domain.tasks.tasks import RunState
from coordination.settings import Settings, load_settings
from coordination.views import tasks as views

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.api.runs import Run
    from coordination.cli.stack.embedded import UsedStack
    from coordination.domain.plans.plans import Plan

_OWN_GRACE = "2s"

Beads = Annotated[
    Path | None, Option("--beads", metavar="FILE", help="Create a task for each open issue of this file.")
]
Agent = Annotated[
    str | None, Option("--agent", help="The job for an issue: shell:'COMMAND' or python:module:function.")
]
Replace = Annotated[bool, Option("--replace", help="With --beads: delete imported issues missing from the file.")]
Rules = Annotated[str, Option("--rules", help="The rules for ready issues: beads-1.0 or beads-0.47.")]
Slots = Annotated[int | None, Option(help="The number of parallel jobs, if this starts a stack.", min=1)]


def run(
    plan: PlanFile = None,
    *,
    repo: Repo = None,
    beads: Beads = None,
    agent: Agent = None,
    rules: Rules = "beads-1.0",
    replace: Replace = False,
    slots: Slots = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan to its end: live progress, results and cost. Starts an embedded stack when none is configured.

    Exit code: 0 all completed, 1 not all, 2 bad input, 3 waiting for a person without a terminal, 130 interrupted or
    its stack stopped. After 3 and 130, continue with `coord resume`.
    """
    settings = _settings(slots)
    checked_plan = _read_plan(plan, beads, agent, rules, repo)

    def begin(co: Coordination) -> Run:
        return _submit(co, checked_plan, beads, replace=replace)

    raise typer.Exit(_on_a_stack(settings, begin, f"coord run {quote(str(plan or beads))}", as_json=as_json))


def submit(
    plan: PlanFile = None,
    *,
    repo: Repo = None,
    beads: Beads = None,
    agent: Agent = None,
    rules: Rules = "beads-1.0",
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Submit a plan and return at once. Running workers execute it; warns when there are none."""
    checked_plan = _read_plan(plan, beads, agent, rules, repo)
    with open_connection() as co:
        if co.runtime.wakeups is not None:
            co.runtime.wakeups.ping()  # reports an unreachable Redis before anything is stored
        submitted = _submit(co, checked_plan, beads, replace=replace)
        aim_hints(co, submitted.record.project_id)
        warn_if_stopped(co, submitted.record.project_id)
        if as_json:
            print_json(views.about_run(submitted.record, tasks=submitted.record.total))
        else:
            tasks = plural(submitted.record.total, "task")
            see = f"coord runs show {quote(name_of_run(submitted))}"
            print(f"Run {submitted.id} of {submitted.record.project}: {tasks}. See: {see}")
        from coordination.cli.tasks.stalled_run import missing_workers

        if (note := missing_workers(co)) is not None:
            print(f"coord: stored, but {note}", file=sys.stderr)


def resume(
    name: Annotated[str, Argument(metavar="RUN", help="The run: its id, a part of it, or its name.")],
    *,
    project: ProjectName = None,
    retry: Annotated[bool, Option("--retry", help="Retry failed and canceled tasks first.")] = False,
    slots: Slots = None,
    as_json: AsJson = False,
) -> None:
    """Resume an interrupted or waiting run. Follows it to its end; exit codes: see coord run."""

    def begin(co: Coordination) -> Run:
        run = find_run(co, name, project)
        if retry:
            run.retry()
        run.resume()
        return run

    raise typer.Exit(_on_a_stack(_settings(slots), begin, f"coord resume {quote(name)}", as_json=as_json))


def _settings(slots: int | None) -> Settings:
    """Return the settings; a stack of this command hands running jobs back soon after Ctrl-C."""
    settings = load_settings(slots=slots)
    if "shutdown_grace" not in settings.sources and settings.embedded:
        settings = load_settings(slots=slots, shutdown_grace=_OWN_GRACE)
    return settings


def _read_plan(plan: Path | None, beads: Path | None, agent: str | None, rules: str, repo: Path | None) -> Plan:
    """Return the plan of these options, checked."""
    if (plan is None) == (beads is None):
        raise Refused("Name a plan file, or a Beads file with --beads", hint="See: coord run --help")
    if beads is not None:
        return for_repository(issues.plan_of(beads, agent=agent, rules=rules), repo)
    return read_plan(plan, repo)


def _submit(co: Coordination, plan: Plan, beads: Path | None, *, replace: bool) -> Run:
    return co.submit(plan) if beads is None else issues.submit(co, plan, beads, replace=replace)


def _on_a_stack(settings: Settings, begin: Callable[[Coordination], Run], command: str, *, as_json: bool) -> int:
    """Start a run on the running stack or a new one, follow it to its end and return the exit code.

    When the process of the stack is killed, the run continues on a new stack.
    """
    from coordination.api.connection import Coordination
    from coordination.base.errors import StackGoneError, StackStoppedError
    from coordination.cli.stack.embedded import stack_for
    from coordination.runtime import open_runtime

    run_ids: list[str] = []  # the started run, once there is one
    stack: UsedStack | None = None

    def resume_started(co: Coordination) -> Run:
        run = co.run(run_ids[0])
        run.resume()
        return run

    try:
        while True:
            try:
                with (
                    stack_for(settings, command) as stack,
                    Coordination(open_runtime(settings, redis_url=stack.redis_url)) as co,
                ):
                    run = resume_started(co) if run_ids else begin(co)
                    run_ids[:] = [run.id]
                    aim_hints(co, run.record.project_id)
                    stack.note_run(run.id)
                    warn_if_stopped(co, run.record.project_id)
                    return _follow(run, stack, as_json=as_json)
            except StackGoneError:
                continue
    except StackStoppedError as stopped:
        print(f"coord: {stopped.message}. Continue with: coord resume {run_ids[0]}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            print(_interruption_message(run_ids[0] if run_ids else None, stack), file=sys.stderr)
        return INTERRUPTED


def _interruption_message(run: str | None, stack: UsedStack | None) -> str:
    """Return what to print after Ctrl-C: whether the run continues, and the next commands."""
    if run is None:
        return "coord: interrupted before anything was submitted"
    if stack is not None and stack.joined is None:
        where = "on the workers that are configured"
    elif stack is not None and stack.stays:
        where = f"as long as the stack is in use by {', '.join(stack.stays)}"
    else:
        hurried = stack is not None and stack.joined is not None and stack.joined.hurried
        jobs = "running jobs were ended" if hurried else "running jobs were handed back"
        return f"\ncoord: interrupted; {jobs}. Continue with: coord resume {run}"
    return (
        f"\ncoord: no longer watching; the run continues, {where}.\n"
        f"  Watch it: coord resume {run}\n  Cancel it: coord runs cancel {run}"
    )


def _follow(run: Run, stack: UsedStack, *, as_json: bool) -> int:
    from coordination.cli.tasks import live, summary

    # An embedded stack restarts its worker.
    waits = live.follow(run, problem=stack.problem, quiet=as_json, needs_worker=stack.joined is None)
    if as_json:
        print_json(views.followed_run(summary.details(run), waits))
    else:
        summary.show(run, ended=not waits)  # the reasons for waiting were printed with their commands
    if waits:
        return WAITS_FOR_PERSON
    return OK if run.state is RunState.COMPLETED else NOT_COMPLETED
