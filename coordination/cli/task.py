"""``coord task``: how a running job reports to its worker. Works inside a job, with the token of its attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from coordination.base.errors import Refused
from coordination.cli.terminal import json_text
from coordination.cli.texts import read_text
from coordination.job import NotReported, report

_END = "Noted. End now: the task is started again {}."


def add_to(app: typer.Typer) -> None:
    """Put the commands into the program."""
    commands = typer.Typer(no_args_is_help=True, help="Inside a job: report progress, ask, add work, fail")
    commands.command()(progress)
    commands.command()(ask)
    commands.command()(escalate)
    commands.command()(discovered)
    commands.command()(delegate)
    commands.command()(done)
    commands.command()(fail)
    commands.command()(context)
    app.add_typer(commands, name="task")


def progress(
    text: Annotated[str, typer.Argument(help="What you are doing")],
    percent: Annotated[float | None, typer.Option(help="How much of it is done, 0 to 100")] = None,
) -> None:
    """Say what the job is at."""
    _report("progress", text=text, **({} if percent is None else {"percent": percent}))


def ask(question: Annotated[str, typer.Argument(help="What you need to know")]) -> None:
    """Ask a question, and then end: the task is started again with the answer."""
    _report("ask", question=question)
    print(_END.format("with the answer"))


def escalate(why: Annotated[str, typer.Argument(help="What has to be decided, and why not by you")]) -> None:
    """Ask the run's supervisor, or a person, to decide, and then end: the task is started again with the answer."""
    _report("escalate", why=why)
    print(_END.format("with the answer"))


def discovered(
    key: Annotated[str | None, typer.Argument(help="A name for the work, of letters, digits and -")] = None,
    *,
    title: Annotated[str | None, typer.Option(help="What it is, for people")] = None,
    prompt: Annotated[str | None, typer.Option(help="What an agent like this one is to do")] = None,
    shell: Annotated[str | None, typer.Option(help="A command to run, instead of an agent")] = None,
    needs: Annotated[list[str] | None, typer.Option(help="Keys of tasks that must complete before it")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Tasks as a plan has them, as a JSON list; - is stdin", allow_dash=True)
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="This task waits until it is done; end now")] = False,
) -> None:
    """Add work that you found to the run."""
    tasks = _from_file(file) if file is not None else [_task(key, title, prompt, shell, needs)]
    _added(_report("discovered", tasks=tasks, first=first), first=first)


def delegate(
    key: Annotated[str, typer.Argument(help="A name for the work, of letters, digits and -")],
    *,
    to: Annotated[str, typer.Option(help="The agent that is to do it")],
    prompt: Annotated[str, typer.Option(help="What it is to do")],
    title: Annotated[str | None, typer.Option(help="What it is, for people")] = None,
    needs: Annotated[list[str] | None, typer.Option(help="Keys of tasks that must complete before it")] = None,
    first: Annotated[bool, typer.Option("--first", help="This task waits until it is done; end now")] = False,
) -> None:
    """Give a part of the work, or what is left of it, to another agent."""
    said = {"title": title, "needs": needs}
    more = {name: value for name, value in said.items() if value}
    _added(_report("delegate", key=key, to=to, prompt=prompt, first=first, **more), first=first)


def done(
    output: Annotated[
        str | None, typer.Argument(help="What others get to see of it; default: your last answer")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file with it; - is stdin", allow_dash=True)] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="It is JSON")] = False,
) -> None:
    """Say what the task gives to those that need it. It counts as done when the job ends well."""
    text = read_text(file) if file is not None else output
    if text is None:
        raise Refused("Say what it gives, or --file")
    value: Any = text
    if as_json:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise Refused(f"That is not JSON: {error}") from None
    _report("done", output=value)


def fail(
    why: Annotated[str, typer.Argument(help="Why it cannot be done")],
    *,
    final: Annotated[bool, typer.Option("--final", help="No other attempt could do it either")] = False,
) -> None:
    """Say that it cannot be done, and then end."""
    _report("fail", why=why, final=final)


def context() -> None:
    """Print what this task is and what the tasks before it gave, as JSON."""
    answer = _report("context")
    answer.pop("ok", None)
    print(json_text(answer, indent=2))


def _added(answer: dict[str, Any], *, first: bool) -> None:
    for name, task_id in answer.get("ids", {}).items():
        print(f"{name}  {task_id}")
    if first:
        print(_END.format("when it is done"))


def _task(
    key: str | None, title: str | None, prompt: str | None, shell: str | None, needs: list[str] | None
) -> dict[str, Any]:
    if key is None:
        raise Refused("Give it a key")
    if (prompt is None) == (shell is None):
        raise Refused("Say either --prompt or --shell")
    run = {"prompt": prompt} if shell is None else {"shell": shell}
    task: dict[str, Any] = {"key": key, "run": run, "title": title, "needs": needs}
    return {name: value for name, value in task.items() if value}


def _from_file(path: Path) -> list[Any]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    return found if isinstance(found, list) else [found]


def _report(do: str, **said: Any) -> dict[str, Any]:
    try:
        answer = report(do, **said)
    except NotReported as error:
        raise Refused(str(error)) from None
    if do != "context" and (news := answer.get("news")):
        typer.echo(news)
    return answer
