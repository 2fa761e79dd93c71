"""``coord tasks create`` and ``coord tasks assign``: create a task without a plan, and assign tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from coordination.base.errors import Refused
from coordination.cli.names import OfRun, TaskName, find_run, open_task, place_of
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.domain.jobs import job_class
from coordination.views import tasks as views

if TYPE_CHECKING:
    from coordination.domain.plans.plans import Task

Model = Annotated[str | None, Option("--model", help="The model, by the name that its program uses.")]


def create(
    key: Annotated[str, Argument(metavar="KEY", help="The key of the task: letters, digits and -.")],
    *,
    shell: Annotated[str | None, Option(metavar="COMMAND", help="A command to run.")] = None,
    agent: Annotated[str | None, Option(help="An agent or a program.")] = None,
    prompt: Annotated[str | None, Option(help="The prompt of the agent.")] = None,
    model: Model = None,
    title: Annotated[str | None, Option(help="A title for people.")] = None,
    run: Annotated[str | None, Option(metavar="RUN", help="The run of the task (default: a new one).")] = None,
    needs: Annotated[str | None, Option(metavar="A,B", help="Tasks of the run that must complete first.")] = None,
    checkout: Annotated[str | None, Option(help="Where it works: folder, or worktree (its own git worktree).")] = None,
    priority: Annotated[int, Option(help="Higher runs earlier.", min=-1000, max=1000)] = 0,
    as_json: AsJson = False,
) -> None:
    """Create a single task without a plan file: a command, or a prompt for an agent."""
    fields = {"title": title, "needs": [need.strip() for need in needs.split(",") if need.strip()] if needs else None}
    work = _work(shell, agent, prompt, model)
    task = _task(
        {
            "key": key,
            "run": work,
            "priority": priority,
            **fields,
            "checkout": "git-worktree" if checkout == "worktree" else checkout,
        }
    )
    with open_connection() as co:
        if co.runtime.wakeups is not None:
            co.runtime.wakeups.ping()  # reports an unreachable Redis before anything is stored
        created = co.create(task, run=None if run is None else find_run(co, run))
        place = place_of(created)
    if as_json:
        print_json(views.about_task(created.record, state=created.state))
    else:
        see = f"coord tasks show {created.key} --run {created.record.run_id}"
        print(f"Created {created.key}, which is {created.state} ({place}). See: {see}")


def assign(
    name: TaskName,
    to: Annotated[
        str | None, Argument(metavar="[AGENT]", help="An agent, role:NAME, label:NAME, or a program.")
    ] = None,
    *,
    model: Model = None,
    person: Annotated[str | None, Option(metavar="NAME", help="A person, whose answer completes it.")] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Assign a waiting task to another agent, another model, or a person."""
    with open_task(name, run) as task:
        assigned, place = task.assign(to, model=model, person=person), place_of(task)
    if as_json:
        print_json(views.about_task(task.record, agent=assigned.agent, work=assigned.work))
        return
    assignee = assigned.agent or assigned.work[job_class(assigned.work).kind]
    with_model = f" with {assigned.work['model']}" if person is None and assigned.work.get("model") else ""
    print(f"Assigned {task.key} to {assignee}{with_model} ({place}).")
    if person is not None:
        print(f"When it is done: coord tasks answer {task.key} 'the result' --run {task.record.run_id}")


def _work(shell: str | None, agent: str | None, prompt: str | None, model: str | None) -> dict[str, Any]:
    if (shell is None) == (agent is None):
        raise Refused("Give a command or an agent", hint="Use --shell COMMAND, or --agent NAME with --prompt TEXT")
    if shell is not None:
        if prompt is not None or model is not None:
            raise Refused("A command has no prompt and no model", hint="Leave --prompt and --model out")
        return {"shell": shell}
    if prompt is None:
        raise Refused("An agent needs a prompt", hint="Give it with --prompt TEXT")
    return {"agent": agent, "prompt": prompt} | ({"model": model} if model else {})


def _task(fields: dict[str, Any]) -> Task:
    """Return the task, checked like a task of a plan."""
    from coordination.formats.plan import read_tasks

    present = {name: value for name, value in fields.items() if value is not None}
    (task,) = read_tasks([present], source="coord tasks create")
    return task
