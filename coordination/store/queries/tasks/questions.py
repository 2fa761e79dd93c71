"""Statements on questions that agents ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from coordination.base.ids import new_id
from coordination.domain.tasks.questions import Question
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.store.queries.access.principals import id_of, text_of
from coordination.store.tables.tasks.questions import questions
from coordination.store.tables.tasks.tasks import tasks
from coordination.store.types import db_now

q = questions.c


def put(tx: Connection, workspace_id: str, row: Mapping[str, Any]) -> str:
    """Store a question: project_id, run_id, task_id, attempt, question; its id."""
    question_id = new_id()
    tx.execute(insert(questions).values(id=question_id, workspace_id=workspace_id, **row))
    return question_id


def answer(tx: Connection, workspace_id: str, question_id: str, *, text: str, by: str) -> bool:
    """Keep the answer; False when it has one already."""
    statement = (
        update(questions)
        .where(q.workspace_id == workspace_id, q.id == question_id, q.answered_at.is_(None))
        .values(answer=text, answered_by=id_of(tx, workspace_id, by), answered_at=db_now())
        .returning(q.id)
    )
    return tx.execute(statement).first() is not None


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Question]:
    """What a task has asked, the oldest first."""
    return _found(tx, _joined.where(q.workspace_id == workspace_id, q.task_id == task_id))


def unanswered(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 1000
) -> list[Question]:
    """What nobody has answered yet and a task still waits with, the oldest first."""
    waits = tasks.c.reasons.op("&")(int(BlockReason.QUESTION)) != 0
    where = [q.workspace_id == workspace_id, q.answered_at.is_(None), tasks.c.state == TaskState.BLOCKED, waits]
    if project_id is not None:
        where.append(q.project_id == project_id)
    return _found(tx, _joined.where(*where).limit(limit))


_joined = (
    select(questions, tasks.c.key, text_of(q.answered_by).label("answerer"))
    .join(tasks, tasks.c.id == q.task_id)
    .order_by(q.asked_at, q.id)
)


def _found(tx: Connection, statement: Any) -> list[Question]:
    return [_question(row) for row in tx.execute(statement).mappings()]


def _question(row: RowMapping) -> Question:
    return Question(
        id=row["id"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        key=row["key"],
        attempt=row["attempt"],
        question=row["question"],
        asked_at=row["asked_at"],
        answer=row["answer"],
        answered_by=row["answerer"],
        answered_at=row["answered_at"],
        escalated=bool(row["escalated"]),
    )
