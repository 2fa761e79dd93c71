"""``coord task …``: reports of a running job to its worker, authenticated by the token of its attempt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from coordination.base.errors import Refused
from coordination.cli.terminal import json_text
from coordination.cli.texts import read_text
from coordination.job import NotReported, report

_END = "Noted. End now: the task starts again {}."


def progress(
    text: Annotated[str, Argument(help="What you are doing.")],
    percent: Annotated[float | None, Option(help="How much is done, 0 to 100.")] = None,
) -> None:
    """Report progress."""
    _report("progress", text=text, **({} if percent is None else {"percent": percent}))


def ask(question: Annotated[str, Argument(help="What you need to know.")]) -> None:
    """Ask a question, and then end. The task starts again with the answer."""
    _report("ask", question=question)
    print(_END.format("with the answer"))


def escalate(why: Annotated[str, Argument(help="What must be decided, and why you cannot.")]) -> None:
    """Ask the run's supervisor or a person to decide, and then end. The task starts again with the answer."""
    _report("escalate", why=why)
    print(_END.format("with the answer"))


def discovered(
    key: Annotated[str | None, Argument(help="A key for the task: letters, digits and -.")] = None,
    *,
    title: Annotated[str | None, Option(help="A title for people.")] = None,
    prompt: Annotated[str | None, Option(help="The prompt for an agent like you.")] = None,
    shell: Annotated[str | None, Option(help="A command, instead of an agent.")] = None,
    needs: Annotated[list[str] | None, Option(help="Keys of tasks that must complete before it.")] = None,
    file: Annotated[Path | None, Option(help="A JSON list of tasks as in a plan; - is stdin.", allow_dash=True)] = None,
    first: Annotated[bool, Option("--first", help="Wait for it: end now, and start again when it is done.")] = False,
) -> None:
    """Add tasks for discovered work to the run."""
    tasks = _read_tasks(file) if file is not None else [_task(key, title, prompt, shell, needs)]
    _print_ids(_report("discovered", tasks=tasks, first=first), first=first)


def delegate(
    key: Annotated[str, Argument(help="A key for the task: letters, digits and -.")],
    *,
    to: Annotated[str, Option(help="The agent that gets the task.")],
    prompt: Annotated[str, Option(help="The prompt of the task.")],
    title: Annotated[str | None, Option(help="A title for people.")] = None,
    needs: Annotated[list[str] | None, Option(help="Keys of tasks that must complete before it.")] = None,
    first: Annotated[bool, Option("--first", help="Wait for it: end now, and start again when it is done.")] = False,
) -> None:
    """Delegate the work, or a part of it, to another agent."""
    options = {"title": title, "needs": needs}
    more = {name: value for name, value in options.items() if value}
    _print_ids(_report("delegate", key=key, to=to, prompt=prompt, first=first, **more), first=first)


def done(
    output: Annotated[
        str | None, Argument(help="The output for tasks that need this one; default: your last answer.")
    ] = None,
    file: Annotated[Path | None, Option(help="A file with the output; - is stdin.", allow_dash=True)] = None,
    *,
    as_json: Annotated[bool, Option("--json", help="The output is JSON.")] = False,
) -> None:
    """Set the task's output. The task is completed when the job ends successfully."""
    text = read_text(file) if file is not None else output
    if text is None:
        raise Refused("Give the output or --file")
    value: Any = text
    if as_json:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise Refused(f"That is not JSON: {error}") from None
    _report("done", output=value)


def fail(
    why: Annotated[str, Argument(help="Why the task cannot be done.")],
    *,
    final: Annotated[bool, Option("--final", help="Another attempt would fail, too.")] = False,
) -> None:
    """Report that the task cannot be done, and then end."""
    _report("fail", why=why, final=final)


def context() -> None:
    """Print this task and the outputs of tasks it needs, as JSON."""
    answer = _report("context")
    answer.pop("ok", None)
    print(json_text(answer, indent=2))


def _print_ids(answer: dict[str, Any], *, first: bool) -> None:
    for name, task_id in answer.get("ids", {}).items():
        print(f"{name}  {task_id}")
    if first:
        print(_END.format("when it is done"))


def _task(
    key: str | None, title: str | None, prompt: str | None, shell: str | None, needs: list[str] | None
) -> dict[str, Any]:
    if key is None:
        raise Refused("Give the task a key")
    if (prompt is None) == (shell is None):
        raise Refused("Give either --prompt or --shell")
    run = {"prompt": prompt} if shell is None else {"shell": shell}
    task: dict[str, Any] = {"key": key, "run": run, "title": title, "needs": needs}
    return {name: value for name, value in task.items() if value}


def _read_tasks(path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    return content if isinstance(content, list) else [content]


def _report(do: str, **fields: Any) -> dict[str, Any]:
    try:
        answer = report(do, **fields)
    except NotReported as error:
        raise Refused(str(error)) from None
    if do != "context" and (news := answer.get("news")):
        print(news)
    return answer
