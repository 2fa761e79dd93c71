"""Questions: an agent asks and stops; the task continues with the answer."""

from __future__ import annotations

from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.questions import ANSWERS_KEY, MAX_QUESTION_LENGTH, Question
from coordination.domain.tasks.tasks import BlockReason, TaskRecord, TaskState
from coordination.store.queries.tasks import events, ready
from coordination.store.queries.tasks import questions as rows
from coordination.store.queries.tasks import tasks as task_rows


def ask(tx: Connection, workspace_id: str, claim: Claim, question: str, *, escalated: bool = False) -> str:
    """Store an attempt's question, and return its id. *escalated*: it is for the supervising agent or a person."""
    if escalated:
        why = {"why": question[:2000]}
        event = NewEvent.of_attempt(claim, EventType.ESCALATED, actor=f"task:{claim.key}", payload=why)
        events.append(tx, workspace_id, [event])
    subject = {name: getattr(claim, name) for name in ("project_id", "run_id", "task_id", "attempt")}
    return rows.insert_question(
        tx, workspace_id, {**subject, "question": question[:MAX_QUESTION_LENGTH], "escalated": escalated}
    )


def record_unanswerable(tx: Connection, workspace_id: str, task: TaskRecord, why: str, *, by: str) -> None:
    """Write the event that no agent answers the question of *task*."""
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
    """Answer the open question of *task*. Return the question, and whether the task is queued now.

    Raises Refused if there is no open question, or another than *question_id*. *agent*: the answering agent, for the
    event.
    """
    if not text.strip():
        raise Refused("The answer is empty", field="answer")
    if len(text) > MAX_QUESTION_LENGTH:
        raise Refused(
            f"The answer has {len(text):,} characters; at most {MAX_QUESTION_LENGTH:,} are possible", field="answer"
        )
    task_rows.lock(tx, workspace_id, [task.id], nowait=True)  # an answering task's transaction has locked later rows
    current = task_rows.get(tx, workspace_id, task.id)
    waiting = [question for question in rows.of_task(tx, workspace_id, task.id) if question.answered_at is None]
    blocked = current is not None and current.state is TaskState.BLOCKED and current.reasons & BlockReason.QUESTION
    if current is None or not blocked or not waiting:
        raise Refused(f"{excerpt(task.key)} has no open question", hint="List them: coord questions")
    question = waiting[-1]
    if question_id not in (None, question.id):
        raise Refused(f"{excerpt(task.key)} has another open question now")
    for each in waiting:
        rows.answer(tx, workspace_id, each.id, text=text, by=by)
    exchanges = [*current.carried_over.get(ANSWERS_KEY, ()), {"question": question.question, "answer": text, "by": by}]
    task_rows.set_carried(tx, workspace_id, task.id, {**current.carried_over, ANSWERS_KEY: exchanges})
    payload = {"question": question.question[:2000], "answer": text[:2000]} | ({"agent": agent} if agent else {})
    events.append(tx, workspace_id, [NewEvent.of_task(task, EventType.ANSWERED, actor=by, payload=payload)])
    lifted = ready.lift_from(tx, workspace_id, [task.id], BlockReason.QUESTION)
    return question, bool(events.append_unblocked(tx, workspace_id, task.project_id, lifted, actor=by))
