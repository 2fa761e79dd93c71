"""Questions: an agent asks and stops, somebody answers, and the task goes on with the answer."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.questions import ANSWERS, LONGEST, Question
from coordination.domain.tasks.tasks import BlockReason, TaskRecord, TaskState
from coordination.store.queries.tasks import events, ready
from coordination.store.queries.tasks import questions as rows
from coordination.store.queries.tasks import tasks as task_rows


def ask(tx: Connection, workspace_id: str, claim: Claim, question: str, *, escalated: bool = False) -> str:
    """Keep what an attempt asked, or *escalated*; its id."""
    if escalated:
        why = {"why": question[:2000]}
        event = NewEvent.of_attempt(claim, EventType.ESCALATED, actor=f"task:{claim.key}", payload=why)
        events.append(tx, workspace_id, [event])
    subject = {name: getattr(claim, name) for name in ("project_id", "run_id", "task_id", "attempt")}
    return rows.put(tx, workspace_id, {**subject, "question": question[:LONGEST], "escalated": escalated})


def left_to_a_person(tx: Connection, workspace_id: str, task: TaskRecord, why: str, *, by: str) -> None:
    """Say in the story of *task* that no agent answers its question."""
    payload = {"decision": "left to a person", "why": why[:2000]}
    events.append(tx, workspace_id, [NewEvent.of_task(task, EventType.PROGRESS, actor=by, payload=payload)])


def answer(
    tx: Connection,
    workspace_id: str,
    task: TaskRecord,
    text: str,
    *,
    by: str,
    question_id: str | None = None,
    agent: str | None = None,
) -> tuple[Question, bool]:
    """Answer the question that *task* waits with; the question, and whether the task may be claimed now.

    Refused when it has none, or not the one with *question_id*, or somebody else was first. *agent*: whose answer it
    is, for the story.
    """
    if not text.strip():
        raise Refused("The answer is empty", field="answer")
    if len(text) > LONGEST:
        raise Refused(f"The answer has {len(text):,} characters; at most {LONGEST:,} are possible", field="answer")
    task_rows.lock(tx, workspace_id, [task.id], nowait=True)  # whose answer it is may have locked what comes later
    found = task_rows.get(tx, workspace_id, task.id)
    waiting = [question for question in rows.of_task(tx, workspace_id, task.id) if question.answered_at is None]
    if found is None or found.state is not TaskState.BLOCKED or not found.reasons & BlockReason.QUESTION or not waiting:
        raise Refused(f"{excerpt(task.key)} waits for no answer", hint="See what does: coord questions")
    question = waiting[-1]
    if question_id not in (None, question.id):
        raise Refused(f"{excerpt(task.key)} waits with another question by now")
    for one in waiting:
        rows.answer(tx, workspace_id, one.id, text=text, by=by)
    exchanges = [*found.carried.get(ANSWERS, ()), {"question": question.question, "answer": text, "by": by}]
    task_rows.carry(tx, workspace_id, task.id, {**found.carried, ANSWERS: exchanges})
    payload = {"question": question.question[:2000], "answer": text[:2000]} | ({"agent": agent} if agent else {})
    events.append(tx, workspace_id, [NewEvent.of_task(task, EventType.ANSWERED, actor=by, payload=payload)])
    lifted = ready.lift_from(tx, workspace_id, [task.id], BlockReason.QUESTION)
    return question, bool(events.append_unblocked(tx, workspace_id, task.project_id, lifted, actor=by))
