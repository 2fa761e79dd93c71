"""What happens when attempts have ended, beside the change of their tasks: one ordered list of listeners.

A listener runs in the finishing transaction, after the ends are written. It reads ``effects`` and adds what it did.
Rows are locked in the order that ``store.queries`` describes: slots, then money, then runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import JobSample, history_key, sample_of
from coordination.domain.plans.plan_expansion import ANALYZE, ANSWER, ANSWERER, ASSESS, SUPERVISION, answer_task
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.retry import Complete, Wait
from coordination.services.agents import agents
from coordination.services.attempts.end_effects import EndEffects
from coordination.services.money import ledger
from coordination.services.plans.add_discovered_tasks import add_tasks
from coordination.services.tasks import questions
from coordination.store.queries.forecast import job_history
from coordination.store.queries.money import budget_usage
from coordination.store.queries.tasks import questions as question_rows
from coordination.store.queries.tasks import runs, slots, tasks

Listener = Callable[[Connection, str, str, EndEffects], None]
"""Is given the transaction, the workspace, the project and what the ends did."""

MOST_ANSWERED = 5
"""How many questions of one task agents answer; a person looks at what asks more."""


def learn_durations(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Keep what these attempts cost and how long they took. Short ones that cost nothing teach nothing."""
    samples: dict[str, list[JobSample]] = {}
    for ended in effects.counted():
        work, end = ended.claim.work, ended.end
        costs = (*ended.recorded_costs, *ended.costs)
        sample = sample_of(work, end.outcome, ended.took, costs) if end.began else None
        if sample is not None:
            samples.setdefault(history_key(work), []).append(sample)
    job_history.learn(tx, workspace_id, project_id, samples)


def settle_money(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Record what was spent, and give back what was reserved and not needed.

    Money is the exception to the fence: what an attempt spent that lost its task is recorded too, and marked.
    """
    spent: list[CostRecord] = []
    for ended in effects.ends:
        stale = ended.fence not in effects.fences and ended.task_id not in effects.recorded_before
        spent += [replace(record, stale=stale) for record in ended.costs]
    if not spent and not effects.closing:
        return
    if spent:
        runs.touch_session(tx, workspace_id, sorted({record.session_id for record in spent if record.session_id}))
    slots.lock(tx, workspace_id, project_id)  # they come before money, and a claim may follow
    room = ledger.settle(tx, workspace_id, spent, closing=effects.closing).room
    effects.money_returned = room and bool(budget_usage.runs_waiting(tx, workspace_id, project_id, most=1))


def add_discovered_tasks(tx: Connection, workspace_id: str, project_id: str, effects: EndEffects) -> None:
    """Add the tasks that these attempts found to be needed."""
    counted = [ended for ended in effects.counted() if ended.end.discovered]
    if not counted:
        return
    slots.lock(tx, workspace_id, project_id)  # a claim may follow, and these may lock their run
    desk = agents.AgentLookup(tx, workspace_id)
    for ended in counted:
        effects.newly_ready += add_tasks(tx, workspace_id, ended.task_id, ended.end.discovered, desk).ready


def keep_questions(tx: Connection, workspace_id: str, _project_id: str, effects: EndEffects) -> None:
    """Keep what was asked, and let an agent answer where the run has one for that; else it waits for a person."""
    desk = None
    for ended in effects.counted():
        if ended.end.question is not None and isinstance(ended.decision, Wait):
            desk = desk or agents.AgentLookup(tx, workspace_id)
            effects.newly_ready += _ask(
                tx, workspace_id, ended.claim, ended.end.question, desk, escalated=ended.end.escalated
            )


def pass_answers_on(tx: Connection, workspace_id: str, _project_id: str, effects: EndEffects) -> None:
    """Give the answers of agents to the tasks that asked."""
    for ended in effects.counted():
        if isinstance(ended.decision, Complete) and ANSWER in (role := ended.claim.options.get("role", {})):
            effects.newly_ready += _answer(tx, workspace_id, ended.claim, role, ended.end.output)


LISTENERS: tuple[Listener, ...] = (
    learn_durations,
    settle_money,
    add_discovered_tasks,
    keep_questions,
    pass_answers_on,
)
"""All listeners, in the order in which they are called. Runs are closed later: others may go on in the same commit."""


def _ask(
    tx: Connection, workspace_id: str, claim: Claim, question: str, desk: agents.AgentLookup, *, escalated: bool
) -> int:
    """Keep a question, and add the task in which an agent answers it; return how many tasks that made ready.

    What is escalated is for the run's supervisor: the agent that analyses what was done, or else that assesses it.
    """
    question_id = questions.ask(tx, workspace_id, claim, question, escalated=escalated)
    metadata = runs.metadata_of(tx, workspace_id, claim.run_id)
    who = metadata.get(ANSWERER)
    if escalated:
        supervision = metadata.get(SUPERVISION) or {}
        who = supervision.get(ANALYZE) or supervision.get(ASSESS)
    if who is None or ANSWER in claim.options.get("role", {}):
        return 0
    number = len(question_rows.of_task(tx, workspace_id, claim.task_id))
    try:
        if number > MOST_ANSWERED:
            raise Refused(f"agents have answered {MOST_ANSWERED} of its questions already")  # noqa: TRY301 - where the others are caught
        task = answer_task(claim, who, question, question_id=question_id, task_id=claim.task_id, number=number)
        return add_tasks(tx, workspace_id, claim.task_id, [task], desk).ready
    except Refused as refused:
        asker = tasks.get(tx, workspace_id, claim.task_id)
        if asker is not None:
            questions.left_to_a_person(tx, workspace_id, asker, refused.message, by=f"task:{claim.key}")
        return 0


def _answer(tx: Connection, workspace_id: str, claim: Claim, role: Mapping[str, Any], output: Any) -> int:
    """Give an agent's answer to the task that asked; nothing happens when somebody else was first."""
    asker = tasks.get(tx, workspace_id, str(role[ANSWER]))
    if asker is None or not isinstance(output, Mapping):
        return 0
    by = f"task:{claim.key}"
    if not isinstance(text := output.get("answer"), str):
        questions.left_to_a_person(tx, workspace_id, asker, str(output.get("cannot")), by=by)
        return 0
    agent = claim.agent or str(claim.work[claim.job_kind.kind])
    try:
        _, ready_now = questions.answer(
            tx, workspace_id, asker, text, by=by, question_id=str(role["question_id"]), agent=agent
        )
    except Refused:
        return 0
    return int(ready_now)
