"""``coord questions``, ``coord tasks answer`` and ``coord tasks prompt``: questions of agents, and their prompts."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.base.errors import Refused
from coordination.cli.names import OfRun, TaskName, open_task, place_of
from coordination.cli.next_steps import after_change, name_of_task
from coordination.cli.options import AsJson, OfProject, ProjectName, open_connection, print_json
from coordination.cli.tables import show
from coordination.cli.texts import read_text
from coordination.domain.agents.agents import PERSON
from coordination.domain.tasks.next_steps import Situation, join_steps, steps
from coordination.views import tasks as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.tasks.questions import Question


def questions(*, project: OfProject = None, as_json: AsJson = False) -> None:
    """List the open questions of agents, in all projects or in one."""
    with open_connection() as co:
        open_questions = co.questions.list(project=project)
        first = _answer_command(co, open_questions[0]) if open_questions else None
    if as_json:
        print_json(listing("questions", views.question, open_questions))
        return
    show(
        ["task", "asked", "id", "question"],
        [(each.key, each.asked_at, each.task_id[-12:], _text(each)) for each in open_questions],
    )
    if first is not None:
        print(first)


def _answer_command(co: Coordination, question: Question) -> str:
    """Return the command that answers a question."""
    return f"{question.key}: {join_steps(steps(Situation.QUESTION, task=name_of_task(co.task(question.task_id))))}"


def _text(question: Question) -> str:
    return f"escalated: {question.question}" if question.escalated else question.question


def answer(
    name: TaskName,
    text: Annotated[str | None, Argument(metavar="ANSWER", help="The answer.")] = None,
    *,
    file: Annotated[Path | None, Option(help="A file with the answer; - is stdin.", allow_dash=True)] = None,
    run: OfRun = None,
    project: ProjectName = None,
    as_json: AsJson = False,
) -> None:
    """Answer the open question of a task. Its agent continues with the answer."""
    if (text is None) == (file is None):
        raise Refused("Give the answer, or --file")
    if file is not None:
        text = read_text(file)
    with open_task(name, run, project) as task:
        ready, place = task.answer(text or ""), place_of(task)
        is_done = PERSON in task.record.options
        next_step = after_change(task) if ready or is_done else f"See: coord explain {quote(name_of_task(task))}"
    if as_json:
        print_json(views.about_task(task.record, ready=ready))
    elif is_done:
        print(f"Answer saved; {task.key} is completed ({place}).")
    else:
        effect = "resumes" if ready else "still waits for something else"
        print(f"Answer saved; {task.key} {effect} ({place}).\n{next_step}")


def prompt(name: TaskName, *, run: OfRun = None, project: ProjectName = None, as_json: AsJson = False) -> None:
    """Print the prompt that the agent of a task would get now."""
    with open_task(name, run, project) as task:
        prompt_text = task.prompt()
    if as_json:
        print_json(views.about_task(task.record, prompt=prompt_text))
    else:
        print(prompt_text)
