"""``coord tasks create`` and ``coord tasks assign``: a task without a plan file, and who is to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.names import OfRun, TaskName, found_run, found_task, place_of
from coordination.cli.options import AsJson, connected, print_json

if TYPE_CHECKING:
    from coordination.domain.plans.plans import Task

Model = Annotated[str | None, typer.Option("--model", help="The model, as its program calls it.")]


def add_to(_app: typer.Typer) -> None:
    """Register the commands with those of tasks."""
    from coordination.cli.tasks import group

    group.command("create")(create)
    group.command("assign")(assign)


def create(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A name for it, of letters, digits and -.")],
    *,
    shell: Annotated[str | None, typer.Option("--shell", metavar="COMMAND", help="A command to run.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="The agent or program that is to do it.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What the agent is to do.")] = None,
    model: Model = None,
    title: Annotated[str | None, typer.Option("--title", help="What it is, for people.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Add it to this run (default: a run of its own).")
    ] = None,
    needs: Annotated[
        str | None, typer.Option("--needs", metavar="A,B", help="Tasks of the run that must complete before it.")
    ] = None,
    checkout: Annotated[
        str | None, typer.Option("--checkout", help="Where it works: folder, or worktree for one of its own.")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher runs earlier.", min=-1000, max=1000)] = 0,
    as_json: AsJson = False,
) -> None:
    """Create a single task without a plan file: a command, or a prompt for an agent."""
    fields = {"title": title, "needs": [one.strip() for one in needs.split(",") if one.strip()] if needs else None}
    work = _work(shell, agent, prompt, model)
    task = _task({"key": key, "run": work, "priority": priority, **fields, "checkout": _place(checkout)})
    with connected() as co:
        if co.runtime.nudges is not None:
            co.runtime.nudges.ping()  # a stack that nobody could ring is said before anything is stored
        made = co.create(task, run=None if run is None else found_run(co, run))
        place = place_of(co, made)
    if as_json:
        print_json({"task": made.id, "key": made.key, "run": made.record.run_id, "state": made.state})
    else:
        print(f"{made.key} is {made.state} ({place}). See: coord tasks show {made.key} --run {made.record.run_id}")


def assign(
    name: TaskName,
    to: Annotated[
        str | None, typer.Argument(metavar="[AGENT]", help="An agent, role:NAME, label:NAME, or a program.")
    ] = None,
    *,
    model: Model = None,
    person: Annotated[
        str | None, typer.Option("--person", metavar="NAME", help="A person does it; their answer completes it.")
    ] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Say who is to do a task that waits: another agent, another model, or a person."""
    from coordination.domain.jobs import kind_in

    with connected() as co:
        task = found_task(co, name, run)
        done, place = task.assign(to, model=model, person=person), place_of(co, task)
    if as_json:
        print_json({"task": task.id, "key": task.key, "agent": done.agent, "work": done.work})
        return
    who = done.agent or done.work[kind_in(done.work).kind]
    with_model = f" with {done.work['model']}" if person is None and done.work.get("model") else ""
    print(f"{task.key} is for {who}{with_model} now ({place}).")
    if person is not None:
        print(f"When it is done: coord tasks answer {task.key} 'what came of it' --run {task.record.run_id}")


def _work(shell: str | None, agent: str | None, prompt: str | None, model: str | None) -> dict[str, Any]:
    from coordination.base.errors import Refused

    if (shell is None) == (agent is None):
        raise Refused("Say what it does", hint="Give --shell COMMAND, or --agent NAME with --prompt TEXT")
    if shell is not None:
        if prompt is not None or model is not None:
            raise Refused("A command has no prompt and no model", hint="Leave --prompt and --model out")
        return {"shell": shell}
    if prompt is None:
        raise Refused("An agent needs a prompt", hint="Say what it is to do with --prompt TEXT")
    return {"agent": agent, "prompt": prompt} | ({"model": model} if model else {})


def _place(checkout: str | None) -> str | None:
    return "git-worktree" if checkout == "worktree" else checkout


def _task(fields: dict[str, Any]) -> Task:
    """The task as a plan says it, with the checks of a plan."""
    from coordination.formats.plan import read_tasks

    said = {name: value for name, value in fields.items() if value is not None}
    (task,) = read_tasks([said], source="coord tasks create")
    return task
