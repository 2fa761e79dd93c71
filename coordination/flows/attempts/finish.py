"""Finish attempts: write their ends and call the listeners, then choose the next work, in one transaction.

A listener reads ``effects`` and adds its own. Rows are locked in the order that ``store.queries`` describes: slots,
then money, then runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import JobSample, history_key, make_sample
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWER, ANSWERER, ASSESS, SUPERVISION, answer_task
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.retry import Complete, Wait
from coordination.domain.tasks.tasks import DEFERRAL_LIMIT
from coordination.services.agents import agents
from coordination.services.attempts.end import EndEffects, end_attempts
from coordination.services.money import ledger
from coordination.services.plans.add_discovered_tasks import add_tasks
from coordination.services.tasks import dispatch_window, questions
from coordination.store.queries.forecast import job_history
from coordination.store.queries.money import budgets
from coordination.store.queries.tasks import questions as question_rows
from coordination.store.queries.tasks import ready, runs, slots, tasks
from coordination.store.queries.tasks.ready import ReadyTask

Listener = Callable[[Connection, str, str, EndEffects], None]
"""A function of the transaction, the workspace id, the project id and the effects."""

MAX_AGENT_ANSWERS = 5
"""How many questions of one task agents answer; a person answers further ones."""

_LARGEST_SHARE = 64


def finish(
    tx: Connection,
    workspace_id: str,
    project_id: str,
    ends: Sequence[EndedAttempt],
    *,
    actor: str,
    deferral_limit: timedelta = DEFERRAL_LIMIT,
) -> EndEffects:
    """End these attempts of one project, call all listeners, and return the effects.

    The caller then calls ``dispatch.next_work``, and last ``close_ended_runs``. *deferral_limit*: how long a task may
    defer itself before it waits for a person.
    """
    effects = end_attempts(tx, workspace_id, project_id, ends, actor=actor, deferral_limit=deferral_limit)
    for listener in LISTENERS:
        listener(tx, workspace_id, project_id, effects)
    return effects


def learn_durations(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Store the costs and durations of these attempts for estimates. Short attempts without costs are skipped."""
    samples: dict[str, list[JobSample]] = {}
    for ended in effects.effective_ends():
        work, end = ended.claim.work, ended.end
        costs = (*ended.recorded_costs, *ended.costs)
        sample = make_sample(work, end.outcome, ended.took, costs) if end.job_started else None
        if sample is not None:
            samples.setdefault(history_key(work), []).append(sample)
    job_history.learn(tx, workspace_id, project_id, samples)


def settle_money(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Write the cost records, and return the unused part of the reservations.

    Costs are exempt from the fence: the costs of an attempt that lost its task are recorded too, marked as stale.
    """
    spent: list[CostRecord] = []
    for ended in effects.ends:
        stale = ended.fence not in effects.fences and ended.task_id not in effects.already_recorded
        spent += [replace(record, stale=stale) for record in ended.costs]
    if not spent and not effects.to_settle:
        return
    if spent:
        runs.touch_sessions(tx, workspace_id, sorted({record.session_id for record in spent if record.session_id}))
    slots.lock(tx, workspace_id, project_id)  # locked before money, and a claim may follow
    room = ledger.settle(tx, workspace_id, spent, closing=effects.to_settle).room
    effects.money_returned = room and bool(budgets.list_waiting_runs(tx, workspace_id, project_id, most=1))


def add_discovered_tasks(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Add the tasks that these attempts have discovered."""
    finders = [ended for ended in effects.effective_ends() if ended.end.discovered]
    if not finders:
        return
    slots.lock(tx, workspace_id, project_id)  # a claim may follow, and these may lock their run
    lookup = agents.AgentLookup(tx, workspace_id)
    for ended in finders:
        effects.newly_ready += add_tasks(tx, workspace_id, ended.task_id, ended.end.discovered, lookup).ready


def store_questions(tx: Connection, workspace_id: str, _project_id: str, effects: EndEffects) -> None:
    """Store the questions, each with a task in which the run's answering agent answers it, if it has one."""
    lookup = agents.AgentLookup(tx, workspace_id)
    for ended in effects.effective_ends():
        if ended.end.question is not None and isinstance(ended.decision, Wait):
            effects.newly_ready += _ask(tx, workspace_id, ended, ended.end.question, lookup)


def deliver_answers(tx: Connection, workspace_id: str, _project_id: str, effects: EndEffects) -> None:
    """Deliver the answers of agents to the tasks that asked."""
    for ended in effects.effective_ends():
        if isinstance(ended.decision, Complete) and ANSWER in (role := ended.claim.options.get("role", {})):
            effects.newly_ready += _answer(tx, workspace_id, ended.claim, role, ended.end.output)


LISTENERS: tuple[Listener, ...] = (
    learn_durations,
    settle_money,
    add_discovered_tasks,
    store_questions,
    deliver_answers,
)
"""All listeners in their order. Runs are closed later, because the same commit may claim further tasks of them."""


def _ask(tx: Connection, workspace_id: str, ended: EndedAttempt, question: str, lookup: agents.AgentLookup) -> int:
    """Store a question, add the task in which an agent answers it, and return the number of tasks that became ready.

    An escalated question goes to the run's supervising agent: the analyzing one, else the assessing one.
    """
    claim, escalated = ended.claim, ended.end.escalated
    question_id = questions.ask(tx, workspace_id, claim, question, escalated=escalated)
    metadata = runs.metadata_of(tx, workspace_id, claim.run_id)
    agent = metadata.get(ANSWERER)
    if escalated:
        supervision = metadata.get(SUPERVISION) or {}
        agent = supervision.get(ANALYZE) or supervision.get(ASSESS)
    if agent is None or ANSWER in claim.options.get("role", {}):
        return 0
    number = len(question_rows.of_task(tx, workspace_id, claim.task_id))
    try:
        if number > MAX_AGENT_ANSWERS:
            raise Refused(f"agents have answered {MAX_AGENT_ANSWERS} of its questions already")  # noqa: TRY301 - handled like the others
        task = answer_task(claim, agent, question, question_id=question_id, task_id=claim.task_id, number=number)
        return add_tasks(tx, workspace_id, claim.task_id, [task], lookup).ready
    except Refused as refused:
        asker = tasks.get(tx, workspace_id, claim.task_id)
        if asker is not None:
            questions.record_unanswerable(tx, workspace_id, asker, refused.message, by=f"task:{claim.key}")
        return 0


def _answer(tx: Connection, workspace_id: str, claim: Claim, role: Mapping[str, Any], output: Any) -> int:
    """Deliver an answer, unless the question has one already. Return the number of tasks that became ready."""
    asker = tasks.get(tx, workspace_id, str(role[ANSWER]))
    if asker is None or not isinstance(output, Mapping):
        return 0
    by = f"task:{claim.key}"
    if not isinstance(text := output.get("answer"), str):
        questions.record_unanswerable(tx, workspace_id, asker, str(output.get("cannot")), by=by)
        return 0
    agent = claim.agent or str(claim.work[claim.job_kind.kind])
    try:
        _, ready_now = questions.answer(
            tx, workspace_id, asker, text, by=by, question_id=str(role["question_id"]), agent=agent
        )
    except Refused:
        return 0
    return int(ready_now)


@dataclass(frozen=True, slots=True)
class DispatchTerms:
    """The capacity of a worker, and how it claims and enqueues.

    ``window``: the number of messages that a project may have enqueued. ``bundle``: how many tasks of a kind share a
    message. ``claim`` claims tasks in the same transaction, without waiting, for ``idle_threads`` threads. Without
    ``refill`` the window is filled only if more became ready than was claimed. ``fill_later``: leave that to the
    caller if any thread has a claim, so that the thread can start.
    """

    window: int
    bundle: Callable[[str], int]
    claim: Callable[[Sequence[str]], list[Claim]] | None = None
    idle_threads: int = 0
    refill: bool = True
    fill_later: bool = False


@dataclass(frozen=True, slots=True)
class NextWork:
    """The work after the commit: run ``claims`` (one message's worth per thread) and enqueue ``enqueue``.

    ``unfilled``: more tasks may be ready, and the caller has to fill the project's window.
    """

    claims: list[list[Claim]] = field(default_factory=list)
    enqueue: list[ReadyTask] = field(default_factory=list)
    unfilled: bool = False

    @property
    def runs(self) -> set[str]:
        """Return the runs of these claims."""
        return {claim.run_id for share in self.claims for claim in share}


def next_work(
    tx: Connection, workspace_id: str, project_id: str, effects: EndEffects, terms: DispatchTerms
) -> NextWork:
    """Claim tasks for idle threads, and mark tasks to enqueue. Call it after ``finish``, in its transaction."""
    shares: list[list[Claim]] = []
    nothing_left = False
    if terms.idle_threads and terms.claim:
        shares, nothing_left = _shares(tx, workspace_id, project_id, effects, terms, terms.claim)
    claimed = sum(map(len, shares))
    more_ready = bool(effects.retry_in or effects.newly_ready or len(effects.freed) > claimed)
    if not more_ready and (nothing_left or not terms.refill):
        return NextWork(shares)
    if terms.fill_later and claimed:
        return NextWork(shares, unfilled=True)
    expected = terms.bundle(effects.ends[0].claim.kind) if effects.ends else 1
    enqueue = dispatch_window.fill_window(
        tx, workspace_id, project_id, window=terms.window, bundle=terms.bundle, expected=expected
    )
    return NextWork(shares, enqueue)


def _shares(  # noqa: PLR0917 - called once, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    project_id: str,
    effects: EndEffects,
    terms: DispatchTerms,
    claim: Callable[[Sequence[str]], list[Claim]],
) -> tuple[list[list[Claim]], bool]:
    """Claim short tasks for idle threads: tasks that were just released, else other ready tasks of the project.

    Return the claims by thread, and whether no other task of the project could be enqueued.
    """
    candidates, is_complete = [task.ready for task in effects.released], False
    if not candidates:
        room = terms.idle_threads * _LARGEST_SHARE
        rows = ready.next_to_enqueue(tx, workspace_id, project_id, room=room)
        candidates = [dispatch_window.parse_ready_task(row) for row in rows]
        is_complete = len(rows) < room
    id_shares = dispatch_window.split_into_shares(candidates, threads=terms.idle_threads, bundle=terms.bundle)
    claims = {each.task_id: each for each in claim([id_ for share in id_shares for id_ in share])} if id_shares else {}
    shares = [[claims[id_] for id_ in share if id_ in claims] for share in id_shares]
    return [share for share in shares if share], is_complete and len(claims) == len(candidates)
