"""``coord run | submit | resume``: give work to the system, and watch it until it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.base.errors import INTERRUPTED, NOT_COMPLETED, OK, WAITS_FOR_PERSON
from coordination.base.wording import plural
from coordination.cli.names import InProject, aim_hints
from coordination.cli.options import AsJson, connected, print_json
from coordination.cli.stopping import say_if_stopped

if TYPE_CHECKING:
    from coordination.cli.embedded import Surroundings
    from coordination.client import Coordination, Run
    from coordination.domain.plans.plans import Plan
    from coordination.settings import Settings

_OWN_GRACE = "2s"

PlanFile = Annotated[Path | None, typer.Argument(metavar="PLAN", help="The plan file (YAML).", show_default=False)]
Repo = Annotated[
    Path | None,
    typer.Option("--repo", "-C", metavar="DIR", help="The repository it is about (default: the one you stand in)."),
]
Beads = Annotated[Path | None, typer.Option("--beads", metavar="FILE", help="Work the open issues of this file off.")]
Agent = Annotated[
    str | None,
    typer.Option("--agent", help="Who works an issue off: shell:'COMMAND' or python:module:function."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="With --beads: take imported issues away that the file does not have.")
]
Rules = Annotated[str, typer.Option("--rules", help="Whose rules say what is ready: beads-1.0 or beads-0.47.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("run")(run)
    app.command("submit")(submit)
    app.command("resume")(resume)


def run(
    plan: PlanFile = None,
    *,
    repo: Repo = None,
    beads: Beads = None,
    agent: Agent = None,
    rules: Rules = "beads-1.0",
    replace: Replace = False,
    slots: Annotated[int | None, typer.Option(help="Jobs at once in the stack that this starts.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan to its end: live progress, results and cost. Starts an embedded stack when none is configured.

    Exit code: 0 all completed, 1 not all, 2 bad input, 3 it cannot go on until a person acts and there is no
    terminal to wait at, 130 interrupted or its stack stopped. After 3 and 130 go on with `coord resume`.
    """
    settings = _settings(slots)
    what = _planned(plan, beads, agent, rules, repo)

    def begin(co: Coordination) -> Run:
        if beads is None:
            return co.submit(what)
        from coordination.cli import beads as issues

        return issues.submit(co, what, beads, replace=replace)

    raise typer.Exit(_on_a_stack(settings, begin, f"coord run {plan or beads}", as_json=as_json))


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
    """Store a plan as a run and return at once; the workers of the running stack do it. Says when there is none."""
    what = _planned(plan, beads, agent, rules, repo)
    with connected() as co:
        if co.runtime.nudges is not None:
            co.runtime.nudges.ping()  # a stack that nobody could ring is said before anything is stored
        if beads is None:
            made = co.submit(what)
        else:
            from coordination.cli import beads as issues

            made = issues.submit(co, what, beads, replace=replace)
        aim_hints(co, made.record.project_id)
        say_if_stopped(co, made.record.project_id)
        if as_json:
            print_json({"run": made.id, "project": made.record.project, "tasks": made.record.total})
        else:
            from shlex import quote

            from coordination.cli.next_steps import called_run

            tasks = plural(made.record.total, "task")
            print(f"Run {made.id} of {made.record.project}: {tasks}. See: coord runs show {quote(called_run(made))}")
        from coordination.cli.standstill import who_will_do_it

        if (note := who_will_do_it(co)) is not None:
            print(f"coord: stored, but {note}", file=sys.stderr)


def resume(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run: its id, an end of it, or its name.")],
    *,
    project: InProject = None,
    retry: Annotated[bool, typer.Option("--retry", help="Also retry what failed or was canceled.")] = False,
    slots: Annotated[int | None, typer.Option(help="Jobs at once in the stack that this starts.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted or stood still, and watch it to its end. Exit codes: see coord run."""

    from coordination.cli.names import found_run

    def begin(co: Coordination) -> Run:
        found = found_run(co, name, project)
        if retry:
            found.retry()
        found.resume()
        return found

    raise typer.Exit(_on_a_stack(_settings(slots), begin, f"coord resume {name}", as_json=as_json))


def _settings(slots: int | None) -> Settings:
    """The settings; a stack of our own hands running jobs back soon after Ctrl-C, for `coord resume` to go on."""
    from coordination.settings import load_settings

    found = load_settings(slots=slots)
    if "shutdown_grace" not in found.sources and found.embedded:
        found = load_settings(slots=slots, shutdown_grace=_OWN_GRACE)
    return found


def _planned(plan: Path | None, beads: Path | None, agent: str | None, rules: str, repo: Path | None) -> Plan:
    """The plan that the options name, checked before anything is started or stored."""
    from coordination.base.errors import Refused

    if (plan is None) == (beads is None):
        raise Refused("Name a plan file, or a Beads file with --beads", hint="See: coord run --help")
    if beads is not None:
        from coordination.cli import beads as issues

        return _checked(issues.plan_of(beads, agent=agent, rules=rules), repo)
    return planned(plan, repo)


def planned(plan: Path | None, repo: Path | None) -> Plan:
    """The plan in a file, about that repository, checked."""
    from coordination.base.errors import Refused

    if plan is None:
        raise Refused("Name a plan file")
    return _checked(read_plan_file(plan), repo)


def _checked(plan: Plan, repo: Path | None) -> Plan:
    from coordination.domain.plans import graph

    found = plan if repo is None else _about(plan, repo)
    graph.check(found)
    return found


def read_plan_file(path: Path) -> Plan:
    """The plan in a file, its paths resolved against the file's folder."""
    from coordination.formats.plan import MAX_BYTES, read_plan, resolve_paths

    return resolve_paths(read_plan(read_bytes(path, most=MAX_BYTES), source=str(path)), str(path.resolve().parent))


def read_bytes(path: Path, *, most: int | None = None) -> bytes:
    """A file's content, or Refused with a sentence; at most one byte more than *most* is read."""
    from coordination.base.errors import Refused

    try:
        with path.open("rb") as file:
            return file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _about(plan: Plan, repo: Path) -> Plan:
    from dataclasses import replace

    from coordination.base.errors import Refused

    if not repo.is_dir():
        raise Refused(f"{repo} is not a folder")
    return replace(plan, project=replace(plan.project, path=str(repo.resolve())))


def _on_a_stack(settings: Settings, begin: Callable[[Coordination], Run], command: str, *, as_json: bool) -> int:
    """Begin a run on whatever stack there is (or a new one) and follow it to its end; the exit code.

    When the process of the stack is killed, the run goes on on another one.
    """
    from coordination.base.errors import StackGoneError, StackStoppedError
    from coordination.cli.embedded import stack_for
    from coordination.client import Coordination
    from coordination.runtime import open_runtime

    started: list[str] = []
    around: Surroundings | None = None

    def go_on(co: Coordination) -> Run:
        found = co.run(started[0])
        found.resume()
        return found

    try:
        while True:
            try:
                with (
                    stack_for(settings, command) as around,
                    Coordination(open_runtime(settings, redis_url=around.redis_url)) as co,
                ):
                    run = go_on(co) if started else begin(co)
                    started[:] = [run.id]
                    aim_hints(co, run.record.project_id)
                    around.note_run(run.id)
                    say_if_stopped(co, run.record.project_id)
                    return _follow(run, around, as_json=as_json)
            except StackGoneError:
                continue
    except StackStoppedError as stopped:
        print(f"coord: {stopped.message}. Go on with: coord resume {started[0]}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be gone
            print(_interrupted(started[0] if started else None, around), file=sys.stderr)
        return INTERRUPTED


def _interrupted(run: str | None, around: Surroundings | None) -> str:
    """What is true after Ctrl-C: whether the run goes on, and what a person can do."""
    if run is None:
        return "coord: interrupted before anything was submitted"
    if around is not None and around.joined is None:
        where = "on the workers that are configured"
    elif around is not None and around.stays:
        where = f"as long as the stack is in use by {', '.join(around.stays)}"
    else:
        hurried = around is not None and around.joined is not None and around.joined.hurried
        jobs = "running jobs were ended" if hurried else "running jobs were handed back"
        return f"\ncoord: interrupted; {jobs}. Go on with: coord resume {run}"
    return (
        f"\ncoord: no longer watching; the run goes on, {where}.\n"
        f"  Watch it: coord resume {run}\n  Cancel it: coord runs cancel {run}"
    )


def _follow(run: Run, around: Surroundings, *, as_json: bool) -> int:
    from coordination.cli import live, summary
    from coordination.domain.tasks.runs import RunState

    # An embedded stack starts its worker again by itself.
    waits = live.follow(run, problem=around.problem, quiet=as_json, needs_worker=around.joined is None)
    if as_json:
        print_json({**summary.as_json(run), "waits_for": waits})
    else:
        summary.show(run, ended=not waits)  # what it waits for was said with the command that goes on
    if waits:
        return WAITS_FOR_PERSON
    return OK if run.state is RunState.COMPLETED else NOT_COMPLETED
