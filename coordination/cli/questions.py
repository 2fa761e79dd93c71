"""``coord questions``, ``coord tasks answer`` and ``coord tasks prompt``: what agents ask, and what they are told."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.cli.names import InProject, OfRun, TaskName, found_task, place_of
from coordination.cli.next_steps import after_change, called
from coordination.cli.options import AsJson, ProjectName, chosen_project, connected, print_json
from coordination.cli.texts import read_text
from coordination.domain.agents.assignments import PERSON

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from coordination.client import Coordination
    from coordination.domain.tasks.questions import Question


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("questions")(questions)


def questions(*, project: ProjectName = None, as_json: AsJson = False) -> None:
    """What agents have asked and nobody has answered yet, in all projects or in one."""
    from coordination.cli.tables import show
    from coordination.store.queries.tasks import questions as rows

    with connected() as co, co.runtime.store.read() as tx:
        project_id = chosen_project(tx, co, project).id if project is not None else None
        found = rows.unanswered(tx, co.runtime.workspace_id, project_id=project_id)
        first = _answer_one(tx, co, found[0]) if found else None
    if as_json:
        print_json({"questions": found})
        return
    show(
        ["task", "asked", "id", "question"],
        [(one.key, one.asked_at, one.task_id[-12:], _shown(one)) for one in found],
    )
    if first is not None:
        print(first)


def _answer_one(tx: Connection, co: Coordination, one: Question) -> str:
    """The command that answers a question."""
    from coordination.cli.next_steps import project_here
    from coordination.domain.tasks.next_steps import Situation, sentence, steps
    from coordination.store.queries.tasks import names

    name = names.task_name(
        tx,
        co.runtime.workspace_id,
        one.task_id,
        key=one.key,
        run_id=one.run_id,
        project_id=one.project_id,
        here=project_here(co),
    )
    return f"{one.key}: {sentence(steps(Situation.QUESTION, task=name))}"


def _shown(one: Question) -> str:
    return f"escalated: {one.question}" if one.escalated else one.question


def answer(
    name: TaskName,
    text: Annotated[str | None, typer.Argument(metavar="ANSWER", help="The answer.")] = None,
    *,
    file: Annotated[Path | None, typer.Option("--file", help="A file with it; - is stdin.", allow_dash=True)] = None,
    run: OfRun = None,
    project: InProject = None,
    as_json: AsJson = False,
) -> None:
    """Answer the question that a task waits with; its agent goes on with the answer."""
    from coordination.base.errors import Refused

    if (text is None) == (file is None):
        raise Refused("Give the answer, or --file")
    if file is not None:
        text = read_text(file)
    with connected() as co:
        task = found_task(co, name, run, project)
        ready, place = task.answer(text or ""), place_of(co, task)
        is_done = PERSON in task.record.options
        then = after_change(co, task) if ready or is_done else f"what else: coord explain {quote(called(co, task))}"
    if as_json:
        print_json({"task": task.id, "run": task.record.run_id, "project_id": task.record.project_id, "ready": ready})
    elif is_done:
        print(f"{task.key} is completed ({place})")
    else:
        print(f"{task.key} {'goes on' if ready else 'has its answer, and waits for something else'} ({place})\n{then}")


def prompt(name: TaskName, *, run: OfRun = None, project: InProject = None, as_json: AsJson = False) -> None:
    """What the agent of a task would be told if it were started now."""
    with connected() as co:
        task = found_task(co, name, run, project)
        told = task.prompt()
    if as_json:
        print_json({"task": task.id, "key": task.key, "prompt": told})
    else:
        print(told)
