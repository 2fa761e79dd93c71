"""Tools with which an agent reports on its task, the same as the commands of ``coord task``."""

from __future__ import annotations

import json
from typing import Any

from coordination.base.errors import Refused
from coordination.job import NotReported, report
from coordination.mcp_server.tools import make_tool

_END = "Noted. End now: the task starts again {}."


def progress(text: str, *, percent: float | None = None) -> str:
    """Report progress for people who watch."""
    return _with_news("Noted.", _report("progress", text=text, **({} if percent is None else {"percent": percent})))


def ask(question: str) -> str:
    """Ask a question, and then end. You are started again with the answer."""
    _report("ask", question=question)
    return _END.format("with the answer")


def escalate(why: str) -> str:
    """Ask your supervisor for a decision beyond your task, and then end. You are started again with the answer."""
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
    """Add discovered work as a new task.

    key: a short name of letters, digits and -. Give either prompt (for an agent like you) or shell (a command). needs:
    keys of tasks that must complete before it. first: your task waits for it; end now.
    """
    if (prompt is None) == (shell is None):
        raise Refused("Give either prompt or shell")
    run = {"prompt": prompt} if shell is None else {"shell": shell}
    task = {"key": key, "run": run, "title": title, "needs": needs}
    answer = _report("discovered", tasks=[{name: value for name, value in task.items() if value}], first=first)
    return _added_answer(answer, first=first)


def delegate(
    key: str, *, to: str, prompt: str, title: str | None = None, needs: list[str] | None = None, first: bool = False
) -> str:
    """Delegate your work, or a part of it, to another agent.

    key: a short name of letters, digits and -. to: the agent's name. first: your task waits for it; end now.
    """
    options = {"title": title, "needs": needs}
    more = {name: value for name, value in options.items() if value}
    answer = _report("delegate", key=key, to=to, prompt=prompt, first=first, **more)
    return _added_answer(answer, first=first)


def done(output: Any) -> str:
    """Set the output of your task (text or JSON) instead of your last answer, and then end."""
    return _with_news("Noted. The task is completed when you end.", _report("done", output=output))


def fail(why: str, *, final: bool = False) -> str:
    """Report that your task cannot be done, and then end. final: another attempt would fail, too."""
    _report("fail", why=why, final=final)
    return "Noted. End now."


def context() -> str:
    """Return your task and the outputs of the tasks it needs."""
    answer = _report("context")
    answer.pop("ok", None)
    return json.dumps(answer, ensure_ascii=False)


TOOLS = tuple(map(make_tool, (progress, ask, escalate, discovered, delegate, done, fail, context)))


def _added_answer(answer: dict[str, Any], *, first: bool) -> str:
    ids = json.dumps(answer.get("ids", {}))
    return f"{ids} {_END.format('when it is done')}" if first else _with_news(ids, answer)


def _with_news(text: str, answer: dict[str, Any]) -> str:
    """Return a tool's answer, with news for the agent."""
    return f"{text}\n\n{news}" if (news := answer.get("news")) else text


def _report(do: str, **fields: Any) -> dict[str, Any]:
    try:
        return report(do, **fields)
    except NotReported as error:
        raise Refused(str(error)) from None
