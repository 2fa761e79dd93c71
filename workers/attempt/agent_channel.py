"""Where running jobs report: progress, questions, tasks that they found, a failure of their own judgement.

Each attempt has a socket of its own, in its folder, made when its job first needs one and gone with the attempt, and a
token. Both have to fit, and the process at the other end has to be one of the attempt's. A request and its answer are
one line of JSON each.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from coordination.base.errors import CoordinationError, Refused
from coordination.base.json_values import MAX_DEPTH, is_too_deep, json_problem
from coordination.base.wording import excerpt
from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.jobs.templates import literal
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Discovered, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.questions import LONGEST
from workers.attempt.folders import AttemptFolder
from workers.attempt.report_socket import LONGEST_REQUEST, ReportListener, ReportPeer, ReportServer
from workers.runners.base import Control, ReportAddress

log = structlog.get_logger()

MOST_REPORTS = 2_000
"""Of one attempt; what comes after is refused."""

_LONGEST_TEXT = 2_000

Add = Callable[[Claim, tuple[Discovered, ...]], Mapping[str, str]]
"""Adds tasks that an attempt found to its run, at once; their ids by key. Raises CoordinationError."""


@dataclass(slots=True)
class Report:
    """What one attempt has reported so far."""

    claim: Claim
    control: Control
    count: int = 0
    said: Mapping[str, Any] = field(default_factory=dict)
    question: str | None = None
    escalated: bool = False
    first: dict[str, Discovered] = field(default_factory=dict)
    failure: str | None = None
    final: bool = False
    output: Any = None

    def settle(self, result: AttemptEnd) -> AttemptEnd:
        """*result* with what the job itself said of it. A job that was ended from outside had no last word."""
        if result.outcome not in (Outcome.COMPLETED, Outcome.FAILED, Outcome.DEFERRED):
            return result
        if self.question is not None or self.first:
            discovered = (*result.discovered, *self.first.values())
            carry = {FEEDBACK: None, **result.carry}
            waiting = replace(result, outcome=Outcome.DEFERRED, discovered=discovered, carry=carry)
            return replace(waiting, question=self.question, escalated=self.escalated)
        if self.failure is not None:
            return replace(result, outcome=Outcome.FAILED, error=self.failure, retryable=not self.final)
        if self.output is not None and result.outcome is Outcome.COMPLETED:
            return replace(result, output=self.output)
        return result


class Reporting:
    """The reports of one worker process's jobs. *issue* makes an attempt's token."""

    def __init__(self, add: Add, issue: Callable[[Claim], str]) -> None:
        self._add = add
        self._issue = issue
        self._lock = threading.Lock()
        self._reports: dict[int, Report] = {}
        self._server = ReportServer()

    @contextlib.contextmanager
    def of(self, claim: Claim, control: Control, folder: AttemptFolder) -> Iterator[Report]:
        """While this attempt runs, it may report; *control* opens the socket when its job is told where."""
        report = Report(claim, control)
        listeners: list[ReportListener] = []

        def open_line() -> ReportAddress:
            token, address = self._issue(claim), folder.address()
            listeners.append(self._server.listen(address, partial(self._answer, report, token)))
            return ReportAddress(f"unix:{address}", token, folder.programs())

        control.offer_line(open_line)
        with self._lock:
            self._reports[id(report)] = report
        try:
            yield report
        finally:
            control.offer_line(None)
            for listener in listeners:
                self._server.stop(listener)
            with self._lock:
                del self._reports[id(report)]

    def close(self) -> None:
        """Listen no more."""
        self._server.close()

    def _answer(self, report: Report, token: str, line: bytes, peer: ReportPeer) -> dict[str, Any]:
        try:
            asked = _request(line)
            if not hmac.compare_digest(asked["token"].encode(errors="replace"), token.encode()):
                return _refusal("The token is not that of the attempt whose socket this is")
        except Refused as refused:
            return _refusal(refused.message)
        with self._lock:
            is_open = id(report) in self._reports
            others = [one.control for one in self._reports.values() if one is not report]
        if not is_open:
            return _refusal("The token's attempt has ended")
        if not peer.belongs_to(report.claim, report.control, others):
            log.warning("a report came from a process of another job", task=report.claim.key, pid=peer.pid)
            return _refusal("The token is of another attempt than the process that reports")
        return self._taken(report, asked)

    def _taken(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        hide = report.control.secrets.hide
        asked = {name: value if name == "do" else hide(value) for name, value in asked.items()}
        report.count += 1
        if report.count > MOST_REPORTS:
            return _refusal(f"This attempt has reported {MOST_REPORTS:,} times; no more is possible")
        try:
            verb = _verb(asked)
            if verb in _NOT_OF_ANSWERS and ANSWER in report.claim.options.get("role", {}):
                raise Refused(  # noqa: TRY301 - where the others are caught
                    "A task that answers a question asks none and adds no work", hint='Answer {"cannot": "why"}'
                )
            answer = {"ok": True, **_DOES[verb](self, report, asked)}
            if verb in _HEAR and (look := report.control.news) is not None and (news := look()):
                answer["news"] = news
            return answer  # noqa: TRY300 - what follows is for all of it
        except CoordinationError as error:
            return _refusal(error.message, getattr(error, "hint", None))
        except Exception:
            # A bulkhead: the job hears that its report did not count, and the worker goes on.
            log.exception("a report could not be taken", task=report.claim.key)
            return _refusal("The worker could not take this report; its log says why")

    def _progress(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        payload: dict[str, Any] = {"text": _text(asked, "text")[:_LONGEST_TEXT]}
        if (percent := asked.get("percent")) is not None:
            if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:  # noqa: PLR2004
                raise Refused(f"percent is from 0 to 100, not {excerpt(percent)}", field="percent")
            payload["percent"] = percent
        if payload == report.said:
            report.control.progress()  # said again: a call that was repeated, or still the same
        else:
            report.said = payload
            report.control.event(EventType.PROGRESS, payload)
        return {}

    def _ask(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        report.question, report.escalated = _question(asked, "question"), False
        return {"end": True}

    def _escalate(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        report.question, report.escalated = _question(asked, "why"), True
        return {"end": True}

    def _discovered(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        tasks = asked.get("tasks")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
            raise Refused("tasks is a list of tasks as a plan has them", field="tasks")
        first = asked.get("first") is True
        found = tuple(Discovered(_whole(task, report.claim), first=first, work=report.claim.work) for task in tasks)
        return self._found(report, found)

    def _delegate(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        run = {"agent": _text(asked, "to"), "prompt": literal(_text(asked, "prompt"))}
        said = {name: asked[name] for name in ("key", "title", "needs") if asked.get(name) is not None}
        first = asked.get("first") is True
        task = Discovered({**said, "run": run}, first=first, work=report.claim.work, delegated=True)
        return self._found(report, (task,))

    def _found(self, report: Report, found: tuple[Discovered, ...]) -> dict[str, Any]:
        ids, first = self._add(report.claim, found), found[0].first
        if first:
            # Said twice, it is waited for once.
            report.first.update({str(one.task["key"]): one for one in found})
        return {"ids": dict(ids), "end": first}

    def _done(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        if problem := json_problem({"output": asked.get("output")}):
            raise Refused(f"The output {problem}")
        report.output = asked.get("output")
        report.failure = None
        return {}

    def _fail(self, report: Report, asked: Mapping[str, Any]) -> dict[str, Any]:
        report.failure = _text(asked, "why")[:_LONGEST_TEXT]
        report.final = asked.get("final") is True
        return {"end": True}

    def _context(self, report: Report, _asked: Mapping[str, Any]) -> dict[str, Any]:
        claim = report.claim
        return {
            "task": {"key": claim.key, "title": claim.title, "attempt": claim.attempt, "input": dict(claim.input)},
            "project": claim.project,
            "run": claim.run_id,
            "needs": claim.needs,
        }


_DOES: Mapping[str, Callable[[Reporting, Report, Mapping[str, Any]], dict[str, Any]]] = {
    "progress": Reporting._progress,  # noqa: SLF001 - the class's own table
    "ask": Reporting._ask,  # noqa: SLF001
    "escalate": Reporting._escalate,  # noqa: SLF001
    "discovered": Reporting._discovered,  # noqa: SLF001
    "delegate": Reporting._delegate,  # noqa: SLF001
    "done": Reporting._done,  # noqa: SLF001
    "fail": Reporting._fail,  # noqa: SLF001
    "context": Reporting._context,  # noqa: SLF001
}


_HEAR = frozenset({"progress", "discovered", "delegate", "done", "context"})
"""Whose answers tell a job what it should know: after the others it ends."""

_NOT_OF_ANSWERS = frozenset({"ask", "escalate", "discovered", "delegate"})
"""Or questions could lead to questions without end."""


def _request(line: bytes) -> dict[str, Any]:
    """The request of a line, which has a token. Raises Refused."""
    if len(line) > LONGEST_REQUEST:
        raise Refused("The report is longer than a megabyte")
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("That is not a line of JSON") from None
    if is_too_deep(asked):
        raise Refused(f"The report nests deeper than {MAX_DEPTH} levels")
    if not isinstance(asked, dict) or not isinstance(asked.get("token"), str):
        raise Refused("The request has no token")
    return asked


def _verb(asked: Mapping[str, Any]) -> str:
    verb = asked.get("do")
    if not isinstance(verb, str) or verb not in _DOES:
        raise Refused(f"A job cannot report {excerpt(verb)}", hint=f"It can report: {', '.join(_DOES)}")
    return verb


def _text(asked: Mapping[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{name} must be a text", field=name)
    return value.replace("\0", "")


def _question(asked: Mapping[str, Any], name: str) -> str:
    text = _text(asked, name)
    if len(text) > LONGEST:
        raise Refused(f"The {name} has {len(text):,} characters; at most {LONGEST:,} are possible", field=name)
    return text


def _whole(task: Mapping[str, Any], claim: Claim) -> Mapping[str, Any]:
    """A task for which only a prompt was said is for an agent like the one that found it; its prompt is no template."""
    run = task.get("run")
    if not isinstance(run, Mapping) or set(run) != {"prompt"} or not isinstance(run["prompt"], str):
        return task
    if "prompt" not in claim.work:
        raise Refused("This job is no agent: say who is to do what it found", hint="Write run: {agent: …, prompt: …}")
    work = {**claim.work, "prompt": literal(run["prompt"])}
    return {**task, "run": work} | ({"agent": claim.agent} if claim.agent and "agent" not in task else {})


def _refusal(message: str, hint: str | None = None) -> dict[str, Any]:
    return {"ok": False, "error": message} | ({"hint": hint} if hint else {})
