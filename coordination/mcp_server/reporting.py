"""Tools with which an agent reports on the task it works on: what ``coord task`` does, as calls."""

from __future__ import annotations

import json
from typing import Any

from coordination.base.errors import Refused
from coordination.job import NotReported, report
from coordination.mcp_server.tools import ANYTHING, FLAG, NUMBER, TEXT, TEXTS, Tool

_END = "Noted. End now: the task is started again {}."


def progress(text: str, percent: float | None = None) -> str:
    """Say what you are doing, for whoever watches."""
    return _heard("Noted.", _report("progress", text=text, **({} if percent is None else {"percent": percent})))


def ask(question: str) -> str:
    """Ask for a decision that you need, and then end: you are started again with the answer."""
    _report("ask", question=question)
    return _END.format("with the answer")


def escalate(why: str) -> str:
    """Ask your supervisor to decide what goes beyond your task, and then end: you are started again with the answer."""
    _report("escalate", why=why)
    return _END.format("with the answer")


def discovered(
    key: str,
    *,
    title: str | None = None,
    prompt: str | None = None,
    shell: str | None = None,
    needs: list[str] | None = None,
    first: bool = False,
) -> str:
    """Add work that you found and that is not yours to do now.

    key: a short name of letters, digits and -. Either prompt, for an agent like you, or shell, a command. needs: keys
    of tasks that must complete before it. first: you need it done before you can go on; then end.
    """
    if (prompt is None) == (shell is None):
        raise Refused("Say either prompt or shell")
    run = {"prompt": prompt} if shell is None else {"shell": shell}
    task = {"key": key, "run": run, "title": title, "needs": needs}
    answer = _report("discovered", tasks=[{name: value for name, value in task.items() if value}], first=first)
    return _added(answer, first=first)


def delegate(
    key: str,
    *,
    to: str,
    prompt: str,
    title: str | None = None,
    needs: list[str] | None = None,
    first: bool = False,
) -> str:
    """Give a part of your work, or what is left of it, to another agent.

    key: a short name of letters, digits and -. to: the agent's name. first: you need it done before you can go on;
    then end.
    """
    said = {"title": title, "needs": needs}
    more = {name: value for name, value in said.items() if value}
    answer = _report("delegate", key=key, to=to, prompt=prompt, first=first, **more)
    return _added(answer, first=first)


def done(output: Any) -> str:
    """Say what the task gives to those that need it, text or JSON, instead of your last answer. Then end."""
    return _heard("Noted. It counts as done when you end.", _report("done", output=output))


def fail(why: str, *, final: bool = False) -> str:
    """Say that it cannot be done, and then end. final: no other attempt could do it either."""
    _report("fail", why=why, final=final)
    return "Noted. End now."


def context() -> str:
    """What the task is, and what the tasks before it gave."""
    answer = _report("context")
    answer.pop("ok", None)
    return json.dumps(answer, ensure_ascii=False)


TOOLS = (
    Tool(progress, {"text": TEXT, "percent": NUMBER}, ("text",)),
    Tool(ask, {"question": TEXT}, ("question",)),
    Tool(escalate, {"why": TEXT}, ("why",)),
    Tool(
        discovered,
        {"key": TEXT, "title": TEXT, "prompt": TEXT, "shell": TEXT, "needs": TEXTS, "first": FLAG},
        ("key",),
    ),
    Tool(
        delegate,
        {"key": TEXT, "to": TEXT, "prompt": TEXT, "title": TEXT, "needs": TEXTS, "first": FLAG},
        ("key", "to", "prompt"),
    ),
    Tool(done, {"output": ANYTHING}, ("output",)),
    Tool(fail, {"why": TEXT, "final": FLAG}, ("why",)),
    Tool(context),
)


def _added(answer: dict[str, Any], *, first: bool) -> str:
    ids = json.dumps(answer.get("ids", {}))
    return f"{ids} {_END.format('when it is done')}" if first else _heard(ids, answer)


def _heard(said: str, answer: dict[str, Any]) -> str:
    """What a tool says, with what the agent should know now."""
    return f"{said}\n\n{news}" if (news := answer.get("news")) else said


def _report(do: str, **said: Any) -> dict[str, Any]:
    try:
        return report(do, **said)
    except NotReported as error:
        raise Refused(str(error)) from None
