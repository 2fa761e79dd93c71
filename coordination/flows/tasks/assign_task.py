"""Assign a waiting task to another agent, another model or a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import NotFound, Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.access.authority import rights_of
from coordination.domain.agents.agents import PERSON
from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.jobs import AGENTS, IN_WORKTREE, AgentCall, parse_job
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION
from coordination.domain.jobs.registry import job_class, kind_label
from coordination.domain.plans.plan_expansion import VARIANT, WORK
from coordination.domain.plans.plans import Plan
from coordination.domain.plans.plans import Task as Planned
from coordination.domain.tasks.events import EventType, NewEvent
from coordination.domain.tasks.questions import ANSWERS_KEY
from coordination.domain.tasks.tasks import OPEN, BlockReason, TaskRecord, TaskState
from coordination.services.agents import agents
from coordination.services.plans.store_graph import check_models
from coordination.store.queries.agents import assignments as rows
from coordination.store.queries.projects import projects as project_rows
from coordination.store.queries.tasks import events, ready, tasks
from coordination.store.queries.tasks import questions as question_rows

_KEPT_FIELDS = ("prompt", "env", "secrets")
_KEPT_KEYS = (ANSWERS_KEY, FEEDBACK)  # other carried values, such as a conversation, belong to the previous agent


@dataclass(frozen=True, slots=True)
class Assignment:
    """The assignee and the job of the task now. ``ready``: how many tasks became ready."""

    project_id: str
    agent: str | None
    work: Mapping[str, Any]
    ready: int


def assign_task(
    tx: Connection,
    workspace_id: str,
    task_id: str,
    *,
    actor: str,
    to: str | None = None,
    model: str | None = None,
    person: str | None = None,
) -> Assignment:
    """Assign a waiting task to the agent *to* (a name, role:…, label:…, or a program), a *model*, or a *person*.

    The job of an agent or a chat keeps its prompt, ``env`` and ``secrets``. A person's task is listed with the
    questions, and the answer completes it. Raises NotFound, PlanError or Refused with nothing changed.
    """
    tasks.lock(tx, workspace_id, [task_id])
    task = tasks.get(tx, workspace_id, task_id)
    if task is None:
        raise NotFound(f"There is no task {task_id}", hint="See: coord tasks list")
    _check(task, to, model, person)
    previous_person = task.options.get(PERSON)
    if person is not None:
        return _to_a_person(tx, task, person.strip(), actor=actor)
    agent, work = _work(tx, task, to, model)
    project = project_rows.get(tx, workspace_id, task.project_id)
    check_models(Plan([Planned(task.key, work)]), {task.key: work}, project)
    options = {name: value for name, value in task.options.items() if name != PERSON}
    authority = task.authority
    if (rights := rights_of(authority)) is not None:  # a person decided, so the task may run the new job
        authority = replace(rights, work=work, agent=agent).to_json()
    kind = kind_label(work) + (IN_WORKTREE if CHECKOUT_OPTION in options else "")
    carried = {name: task.carried_over[name] for name in _KEPT_KEYS if name in task.carried_over}
    rows.assign_agent(
        tx,
        workspace_id,
        task.id,
        agent=agent,
        work=work,
        kind=kind,
        options=options,
        carried=carried,
        authority=authority,
    )
    _write_event(
        tx, task, {"agent": agent, "model": job_class(work).qualified_model_in(work), "before": task.agent}, actor
    )
    queued = 0
    if previous_person is not None:
        for question in question_rows.of_task(tx, workspace_id, task.id):
            question_rows.answer(tx, workspace_id, question.id, text=f"given to {agent or to or model}", by=actor)
        lifted = ready.lift_from(tx, workspace_id, [task.id], BlockReason.QUESTION)
        queued = events.append_unblocked(tx, workspace_id, task.project_id, lifted, actor=actor)
    return Assignment(task.project_id, agent, work, queued)


def _check(task: TaskRecord, to: str | None, model: str | None, person: str | None) -> None:
    if person is not None and (to is not None or model is not None):
        raise Refused("A task is assigned either to a person or to an agent", hint="Omit one of them", field="person")
    if to is None and model is None and not (person or "").strip():
        raise Refused("No assignee is given", hint="Name an agent, a model or a person", field="to")
    if task.state is TaskState.RUNNING:
        again = f"coord tasks force {task.key} queued --reason 'another agent'"
        raise Refused(f"{task.key} is running", hint=f"Wait until it has ended, or stop it first: {again}")
    if task.state not in OPEN:
        retry = f"coord tasks retry {task.key}"
        raise Refused(f"{task.key} is {task.state} already", hint=f"Reopen it first: {retry}")
    if role := task.options.get("role", {}).keys() - {WORK, VARIANT}:
        raise Refused(
            f"{task.key} reviews the work of others ({min(role)}); its plan names the agent for that",
            hint=f"Assign {task.key.partition('/')[0]}/{WORK}, or another task that does work",
        )


def _work(tx: Connection, task: TaskRecord, to: str | None, model: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return the new agent and the new job."""
    if not job_class(task.work).asks_a_model:
        raise Refused(
            f"{task.key} runs {excerpt(job_class(task.work).instruction(task.work))}, not an agent",
            hint="Give it to a person with --person, or create another task: coord tasks create",
            field="to",
        )
    lookup = agents.AgentLookup(tx, task.workspace_id)
    if to is None:
        assert model is not None  # noqa: S101 - see _check
        return task.agent, parse_job(job_class(task.work).with_model(task.work, model)).to_json()
    kept = {name: task.work[name] for name in _KEPT_FIELDS if task.work.get(name)}
    if task.agent is not None and (old := lookup.find(task.agent)) is not None:
        kept["prompt"] = old.without_introduction(str(kept["prompt"]))
    call = parse_job({"agent": to, **kept} | ({"model": model} if model else {}))
    assert isinstance(call, AgentCall)  # noqa: S101 - it has that key
    if to in AGENTS:
        return None, call.to_json()
    profile = lookup.choose(to)
    if profile is None:
        suggestion = did_you_mean(to, [*AGENTS, *lookup.names])
        raise Refused(f"There is no agent {excerpt(to)}", hint=suggestion or "See: coord agents list", field="to")
    return profile.name, profile.build_job(call).to_json()


def _to_a_person(tx: Connection, task: TaskRecord, person: str, *, actor: str) -> Assignment:
    """Make the task wait for a person, with a question that describes the work."""
    for question in question_rows.of_task(tx, task.workspace_id, task.id):
        question_rows.answer(tx, task.workspace_id, question.id, text=f"given to {person}", by=actor)
    subject = {"project_id": task.project_id, "run_id": task.run_id, "task_id": task.id, "attempt": task.attempt}
    job = job_class(task.work)
    what = job.instruction(task.work) if job.asks_a_model else task.title
    question_rows.insert_question(tx, task.workspace_id, {**subject, "question": f"For {person}: {what}"[:20_000]})
    options = {**task.options, PERSON: person}
    rows.assign_person(tx, task.workspace_id, task.id, person=person, reasons=task.reasons, options=options)
    _write_event(tx, task, {"agent": person, "person": True, "before": task.agent}, actor)
    return Assignment(task.project_id, person, task.work, 0)


def _write_event(tx: Connection, task: TaskRecord, payload: Mapping[str, Any], actor: str) -> None:
    payload = {name: value for name, value in payload.items() if value is not None}
    event = NewEvent.of_task(task, EventType.ASSIGNED, actor=actor, payload=payload)
    events.append(tx, task.workspace_id, [event])
