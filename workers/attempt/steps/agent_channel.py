"""Receives the reports of running jobs: progress, questions, discovered tasks, output, a failure.

Each attempt has its own token and socket, made when its job first needs them. A request must have the token and come
from a process of the attempt. A request and its answer are one line of JSON each.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import CoordinationError, Refused
from coordination.base.json_values import MAX_DEPTH, is_too_deep, json_problem
from coordination.base.wording import excerpt
from coordination.domain.access.attempt_tokens import EVERYTHING, AttemptClaims, Scope, derive_key, issue
from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.jobs.templates import escape_template
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.attempts import AttemptEnd, Claim, DiscoveredTask, Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.questions import MAX_QUESTION_LENGTH
from coordination.flows.tasks.add_discovered_tasks import add_tasks_of_attempt
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from workers.attempt.folders import AttemptFolders
from workers.attempt.report_socket import LONGEST_REQUEST, ReportListener, ReportPeer, ReportServer
from workers.attempt.running import Proceed, RunningAttempt
from workers.context import Context
from workers.runners.base import Control, ReportAddress

log = structlog.get_logger()

MOST_REPORTS = 2_000
"""Reports of one attempt; more are refused."""

_LONGEST_TEXT = 2_000

Add = Callable[[Claim, tuple[DiscoveredTask, ...]], Mapping[str, str]]
"""Adds discovered tasks to the attempt's run; returns their ids by key. Raises CoordinationError."""


@dataclass(slots=True)
class JobReports:
    """What the job of one attempt has reported so far."""

    claim: Claim
    control: Control
    count: int = 0
    last_progress: Mapping[str, Any] = field(default_factory=dict)
    question: str | None = None
    escalated: bool = False
    first: dict[str, DiscoveredTask] = field(default_factory=dict)
    failure: str | None = None
    final: bool = False
    output: Any = None

    def settle(self, result: AttemptEnd) -> AttemptEnd:
        """Apply the reports to *result*, unless the job was ended from outside."""
        if result.outcome not in (Outcome.COMPLETED, Outcome.FAILED, Outcome.DEFERRED):
            return result
        if self.question is not None or self.first:
            discovered = (*result.discovered, *self.first.values())
            carry = {FEEDBACK: None, **result.carry_over}
            waiting = replace(result, outcome=Outcome.DEFERRED, discovered=discovered, carry_over=carry)
            return replace(waiting, question=self.question, escalated=self.escalated)
        if self.failure is not None:
            return replace(result, outcome=Outcome.FAILED, error=self.failure, retryable=not self.final)
        if self.output is not None and result.outcome is Outcome.COMPLETED:
            return replace(result, output=self.output)
        return result


class AgentChannelStep:
    """Receives the reports of this process's jobs while they run. *issue* makes an attempt's token."""

    def __init__(self, add: Add, issue: Callable[[Claim], str], folders: AttemptFolders) -> None:
        self._add = add
        self._issue = issue
        self._folders = folders
        self._lock = threading.Lock()
        self._open: dict[int, JobReports] = {}
        self._server = ReportServer()

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        with self.open(attempt.rendered, attempt.control) as reports:
            return reports.settle(proceed(attempt))

    @contextlib.contextmanager
    def open(self, claim: Claim, control: Control) -> Iterator[JobReports]:
        """Accept the attempt's reports. Its socket is opened when a runner first needs the address."""
        reports, folder = JobReports(claim, control), control.scratch
        listeners: list[ReportListener] = []

        def open_reports() -> ReportAddress:
            token, address = self._issue(claim), self._folders.address(folder)
            listeners.append(self._server.listen(address, partial(self._answer, reports, token)))
            return ReportAddress(f"unix:{address}", token, self._folders.programs(folder))

        control.offer_reports(open_reports)
        with self._lock:
            self._open[id(reports)] = reports
        try:
            yield reports
        finally:
            control.offer_reports(None)
            for listener in listeners:
                self._server.stop(listener)
            with self._lock:
                del self._open[id(reports)]

    def close(self) -> None:
        self._server.close()

    def _answer(self, reports: JobReports, token: str, line: bytes, peer: ReportPeer) -> dict[str, Any]:
        try:
            request = _parse_request(line)
            if not hmac.compare_digest(request["token"].encode(errors="replace"), token.encode()):
                return _refusal("The token is not of the attempt of this socket")
        except Refused as refused:
            return _refusal(refused.message)
        with self._lock:
            is_open = id(reports) in self._open
            others = [other.control for other in self._open.values() if other is not reports]
        if not is_open:
            return _refusal("The attempt of this token has ended")
        if not peer.belongs_to(reports.claim, reports.control, others):
            log.warning("refused a report from a process of another job", task=reports.claim.key, pid=peer.pid)
            return _refusal("The reporting process belongs to another attempt than the token")
        return self._act(reports, request)

    def _act(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        hide = reports.control.mask
        request = {name: value if name == "do" else hide(value) for name, value in request.items()}
        reports.count += 1
        if reports.count > MOST_REPORTS:
            return _refusal(f"This attempt has reported {MOST_REPORTS:,} times; no more is possible")
        try:
            verb = _verb(request)
            if verb in _NOT_FOR_ANSWERS and ANSWER in reports.claim.options.get("role", {}):
                raise Refused(  # noqa: TRY301 - handled below like the others
                    "A task that answers a question can neither ask questions nor add tasks",
                    hint='Answer {"cannot": "why"}',
                )
            answer = {"ok": True, **getattr(self, f"_{verb}")(reports, request)}
            if verb in _WITH_NEWS and (read_news := reports.control.news) is not None and (news := read_news()):
                answer["news"] = news
            return answer  # noqa: TRY300 - the handlers are for all of it
        except CoordinationError as error:
            return _refusal(error.message, getattr(error, "hint", None))
        except Exception:
            # The job gets an error, and the worker goes on.
            log.exception("a report could not be handled", task=reports.claim.key)
            return _refusal("The worker could not handle this report; the reason is in its log")

    def _progress(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        payload: dict[str, Any] = {"text": _text(request, "text")[:_LONGEST_TEXT]}
        if (percent := request.get("percent")) is not None:
            if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:  # noqa: PLR2004
                raise Refused(f"percent must be from 0 to 100, not {excerpt(percent)}", field="percent")
            payload["percent"] = percent
        if payload == reports.last_progress:
            reports.control.progress()  # a repeated call: no new event
        else:
            reports.last_progress = payload
            reports.control.event(EventType.PROGRESS, payload)
        return {}

    def _ask(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        escalated = request["do"] == "escalate"
        name = "why" if escalated else "question"
        text = _text(request, name)
        if len(text) > MAX_QUESTION_LENGTH:
            why = f"The {name} has {len(text):,} characters; at most {MAX_QUESTION_LENGTH:,} are possible"
            raise Refused(why, field=name)
        reports.question, reports.escalated = text, escalated
        return {"end": True}

    _escalate = _ask

    def _discovered(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        tasks = request.get("tasks")
        if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
            raise Refused("tasks must be a list of tasks in the form of plans", field="tasks")
        return self._add_discovered(reports, request, [_with_agent(task, reports.claim) for task in tasks])

    def _delegate(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        run = {"agent": _text(request, "to"), "prompt": escape_template(_text(request, "prompt"))}
        fields = {name: request[name] for name in ("key", "title", "needs") if request.get(name) is not None}
        return self._add_discovered(reports, request, [{**fields, "run": run}], delegated=True)

    def _add_discovered(
        self,
        reports: JobReports,
        request: Mapping[str, Any],
        tasks: Sequence[Mapping[str, Any]],
        *,
        delegated: bool = False,
    ) -> dict[str, Any]:
        first, work = request.get("first") is True, reports.claim.work
        discovered = tuple(DiscoveredTask(task, first, work=work, delegated=delegated) for task in tasks)
        ids = self._add(reports.claim, discovered)
        if first:
            # A task that is reported twice is waited for once.
            reports.first.update({str(task.task["key"]): task for task in discovered})
        return {"ids": dict(ids), "end": first}

    def _done(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        if problem := json_problem({"output": request.get("output")}):
            raise Refused(f"The output {problem}")
        reports.output = request.get("output")
        reports.failure = None
        return {}

    def _fail(self, reports: JobReports, request: Mapping[str, Any]) -> dict[str, Any]:
        reports.failure = _text(request, "why")[:_LONGEST_TEXT]
        reports.final = request.get("final") is True
        return {"end": True}

    def _context(self, reports: JobReports, _request: Mapping[str, Any]) -> dict[str, Any]:
        claim = reports.claim
        return {
            "task": {"key": claim.key, "title": claim.title, "attempt": claim.attempt, "input": dict(claim.input)},
            "project": claim.project,
            "run": claim.run_id,
            "needs": claim.needs,
        }


_VERBS = ("progress", "ask", "escalate", "discovered", "delegate", "done", "fail", "context")
"""The kinds of reports. Each has a method above."""

_WITH_NEWS = frozenset({"progress", "discovered", "delegate", "done", "context"})
"""Reports whose answers may contain news. A job ends after the other reports."""

_NOT_FOR_ANSWERS = frozenset({"ask", "escalate", "discovered", "delegate"})
"""Not for tasks that answer a question, or questions could cause questions without end."""


def _parse_request(line: bytes) -> dict[str, Any]:
    """Return the request on a line, which has a token. Raises Refused."""
    if len(line) > LONGEST_REQUEST:
        raise Refused("The report is longer than a megabyte")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise Refused("The request is not a line of JSON") from None
    if is_too_deep(request):
        raise Refused(f"The report nests deeper than {MAX_DEPTH} levels")
    if not isinstance(request, dict) or not isinstance(request.get("token"), str):
        raise Refused("The request has no token")
    return request


def _verb(request: Mapping[str, Any]) -> str:
    verb = request.get("do")
    if not isinstance(verb, str) or verb not in _VERBS:
        raise Refused(f"A job cannot report {excerpt(verb)}", hint=f"It can report: {', '.join(_VERBS)}")
    return verb


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{name} must be a text", field=name)
    return value.replace("\0", "")


def _with_agent(task: Mapping[str, Any], claim: Claim) -> Mapping[str, Any]:
    """Return *task*; one with only a prompt gets the job of *claim*, and its prompt is no template."""
    run = task.get("run")
    if not isinstance(run, Mapping) or set(run) != {"prompt"} or not isinstance(run["prompt"], str):
        return task
    if not claim.job_kind.asks_a_model:
        raise Refused(
            "This job is not an agent, so a discovered task needs a whole job", hint="Write run: {agent: …, prompt: …}"
        )
    work = {**claim.work, "prompt": escape_template(run["prompt"])}
    return {**task, "run": work} | ({"agent": claim.agent} if claim.agent and "agent" not in task else {})


def _refusal(message: str, hint: str | None = None) -> dict[str, Any]:
    return {"ok": False, "error": message} | ({"hint": hint} if hint else {})


def add_discovered(context: Context, claim: Claim, discovered: tuple[DiscoveredTask, ...]) -> Mapping[str, str]:
    """Add tasks that a running job discovered and return their ids by key. A tick enqueues them."""
    added = context.store.transact(
        lambda tx: add_tasks_of_attempt(tx, claim.workspace_id, claim.task_id, claim.attempt, discovered)
    )
    if added.ready:
        context.wake_projects([(claim.workspace_id, claim.project_id)])
    return added.ids


_FRESH = 1.0  # seconds that a key is cached


class TokenIssuer:
    """Issues tokens with a key that is cached for a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._key: bytes | None = None
        self._read_at = float("-inf")

    def issue(self, claim: Claim) -> str:
        """Return the attempt's token.

        While the database is unavailable, use the last key. Without a key, the token is a random text, which is valid
        only on the attempt's socket.
        """
        key = self._current_key()
        return secrets.token_hex(16) if key is None else issue(key, token_claims(claim))

    def _current_key(self) -> bytes | None:
        with self._lock:
            if self._key is not None and monotonic() - self._read_at < _FRESH:
                return self._key
            try:
                with self._store.read() as tx:
                    secret = workers.find_broker_key(tx)
                self._key = derive_key(secret or self._store.transact(workers.get_or_create_broker_key))
                self._read_at = monotonic()
            except CoordinationError as error:
                log.warning("the key of tokens cannot be read", why=error.message)
            return self._key


def token_claims(claim: Claim) -> AttemptClaims:
    """Return the claims of an attempt's token. A task that answers a question may only report, to prevent loops."""
    answers = ANSWER in claim.options.get("role", {})
    scopes = frozenset({Scope.REPORT}) if answers else EVERYTHING
    return AttemptClaims(claim.workspace_id, claim.project_id, claim.task_id, claim.attempt, claim.agent_id, scopes)
