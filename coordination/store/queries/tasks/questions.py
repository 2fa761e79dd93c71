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


def insert_question(tx: Connection, workspace_id: str, row: Mapping[str, Any]) -> str:
    """Store a question (project_id, run_id, task_id, attempt, question) and return its id."""
    question_id = new_id()
    tx.execute(insert(questions).values(id=question_id, workspace_id=workspace_id, **row))
    return question_id


def answer(tx: Connection, workspace_id: str, question_id: str, *, text: str, by: str) -> bool:
    """Store the answer. Return False if the question has one already."""
    statement = (
        update(questions)
        .where(q.workspace_id == workspace_id, q.id == question_id, q.answered_at.is_(None))
        .values(answer=text, answered_by=id_of(tx, workspace_id, by), answered_at=db_now())
        .returning(q.id)
    )
    return tx.execute(statement).first() is not None


def of_task(tx: Connection, workspace_id: str, task_id: str) -> list[Question]:
    """Return all questions of a task, oldest first."""
    return _read(tx, _SELECT.where(q.workspace_id == workspace_id, q.task_id == task_id))


def list_unanswered(
    tx: Connection, workspace_id: str, *, project_id: str | None = None, limit: int = 1000
) -> list[Question]:
    """Return the questions that tasks wait with, oldest first."""
    waits = tasks.c.reasons.op("&")(int(BlockReason.QUESTION)) != 0
    where = [q.workspace_id == workspace_id, q.answered_at.is_(None), tasks.c.state == TaskState.BLOCKED, waits]
    if project_id is not None:
        where.append(q.project_id == project_id)
    return _read(tx, _SELECT.where(*where).limit(limit))


_SELECT = (
    select(questions, tasks.c.key, text_of(q.answered_by).label("answerer"))
    .join(tasks, tasks.c.id == q.task_id)
    .order_by(q.asked_at, q.id)
)


def _read(tx: Connection, statement: Any) -> list[Question]:
    return [_question(row) for row in tx.execute(statement).mappings()]


_OWN_COLUMNS = tuple(name for name in Question.__slots__ if name not in {"answered_by", "escalated"})


def _question(row: RowMapping) -> Question:
    values = {name: row[name] for name in _OWN_COLUMNS}
    return Question(**values, answered_by=row["answerer"], escalated=bool(row["escalated"]))
