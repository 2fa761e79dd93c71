"""Expansion of a task into several: its variants, or the tasks of its review loop.

The task keeps its key, and so its downstream tasks; its parts have keys below it: ``fix/1``, ``fix/assess``. The
purpose of a part is stored as its ``role``.

* variants: ``fix/1``, ``fix/2``, … do the work; ``fix`` returns the output of the first that passed its gates.
* review loop: ``fix/assess`` assesses the task while its upstream tasks still run; ``fix/work`` does the work; ``fix``
  analyzes the result.
* a question, if an agent answers it: ``fix/answer``, a task that is added when the question is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordination.base.errors import PlanError, Refused, inside
from coordination.base.wording import excerpt
from coordination.domain.jobs import CUSTOM, KINDS, PythonCall, parse_job, templates
from coordination.domain.jobs.accounts import account_fits
from coordination.domain.plans.plans import Plan, Supervision, Task
from coordination.domain.plans.variants import CHOOSE_VARIANT
from coordination.domain.tasks.attempts import Claim, DiscoveredTask
from coordination.domain.tasks.tasks import OnDependencyFailure

MOST_VARIANTS = 16

VARIANT, CHOOSE, ASSESS, WORK, ANALYZE, ANSWER = "variant", "choose", "assess", "work", "analyze", "answer"
"""Roles, as keys of a role's mapping."""

KIND_OF_CHOICE = f"python:{CHOOSE_VARIANT}"
"""The stored kind of a task that has variants."""

ANSWERER = "questions"
"""The key of the agent that answers questions: in a plan, in a project's settings and in a run's metadata."""

SUPERVISION = "supervision"
"""The key of the agents that review, in the same places."""

VARIANTS = "variants"
"""Key in a run's metadata: whether it has variants."""

_OF_ANOTHER_AGENT = ("prompt", "env", "secrets")


def expand(plan: Plan) -> Plan:
    """Return *plan* with its tasks expanded, or *plan* itself if none needs it. Raises PlanError with a line."""
    if plan.supervision is None and not any(task.variants for task in plan.tasks):
        return plan
    keys = {task.key for task in plan.tasks}
    tasks: list[Task] = []
    lines = dict(plan.lines)
    for task in plan.tasks:
        try:
            parts = _parts(plan, task)
            for part in parts[:-1]:
                _check_key(part.key, task.key, keys)
        except Refused as refused:
            message = f"Task {excerpt(task.key)}: {refused.message}"
            line = plan.lines.get(task.key)
            field = inside(f"tasks.{task.key}", "variants" if task.variants else None)
            raise PlanError(message, source=plan.source, line=line, hint=refused.hint, field=field) from None
        lines |= {part.key: plan.lines[task.key] for part in parts if task.key in plan.lines}
        tasks += parts
    return replace(plan, tasks=tasks, lines=lines)


def _check_key(key: str, of: str, keys: set[str]) -> None:
    if key in keys:
        raise Refused(f"the keys of its parts are {of}/…, and another task has the key {excerpt(key)}")


def _parts(plan: Plan, task: Task) -> list[Task]:
    if task.variants:
        return _variants(task)
    supervision = plan.supervision
    if supervision is None or not task.supervised or not parse_job(task.run).asks_a_model:
        return [task]
    return _review_loop(task, supervision.assess, supervision.analyze)


def _variants(task: Task) -> list[Task]:
    differences = overlays(task.variants)
    parts = [
        replace(
            task,
            key=f"{task.key}/{number}",
            run=apply_overlay(parse_job(task.run).to_json(), overlay),
            title=f"{task.title or task.key}, variant {number}",
            parent=task.key,
            variants=(),
            role={VARIANT: number},
        )
        for number, overlay in enumerate(differences, start=1)
    ]
    keys = [part.key for part in parts]
    return [*parts, _final_task(task, PythonCall(CHOOSE_VARIANT, args={"task": task.key}), keys, {CHOOSE: keys})]


def overlays(variants: Any) -> Sequence[Mapping[str, Any]]:
    """Return the overlay of each of a task's variants. Raises Refused for an invalid type or number."""
    if isinstance(variants, bool | str | Mapping) or not isinstance(variants, int | Sequence):
        raise Refused(f"variants must be a number or a list of overlays, not {excerpt(variants)}", field="variants")
    count = variants if isinstance(variants, int) else len(variants)
    if not 2 <= count <= MOST_VARIANTS:  # noqa: PLR2004 - one would not be a choice
        raise Refused(f"variants are from 2 to {MOST_VARIANTS}, not {count}", field="variants")
    return [{}] * count if isinstance(variants, int) else list(variants)


def apply_overlay(run: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job *run* with the keys of a variant's *overlay*. Raises Refused when the result is not a job.

    A variant with another agent keeps the prompt and the environment, but not the arguments, which belong to a program,
    nor an account that is for another agent, such as ``claude@work``.
    """
    if not isinstance(overlay, Mapping):
        raise Refused(f"A variant must map keys of run to other values, not {excerpt(overlay)}", field="variants")
    other = any(kind in overlay and overlay[kind] != run.get(kind) for kind in KINDS)
    base = {name: run[name] for name in _OF_ANOTHER_AGENT if name in run} if other else dict(run)
    job = parse_job({**base, **overlay})
    if other and "account" not in overlay and (account := run.get("account")) is not None:
        return parse_job(
            job.to_json() | ({"account": account} if account_fits(account, job.provider) else {})
        ).to_json()
    return job.to_json()


def _review_loop(task: Task, assess: Mapping[str, Any] | None, analyze: Mapping[str, Any] | None) -> list[Task]:
    run = parse_job(task.run).to_json()
    title = task.title or task.key
    parts: list[Task] = []
    needs = list(task.needs)
    work_key = f"{task.key}/{WORK}" if analyze is not None else task.key
    if assess is not None:
        key = f"{task.key}/{ASSESS}"
        parts.append(
            Task(
                key,
                supervisor_run(assess, run["prompt"]),
                title=f"Assess: {title}"[:500],
                parent=task.key,
                priority=task.priority,
                workdir=task.workdir,
                criteria=task.criteria,
                role={ASSESS: task.key},
            )
        )
        needs.append(key)
    if analyze is None:
        return [*parts, replace(task, needs=needs, role={WORK: task.key})]
    parts.append(replace(task, key=work_key, needs=needs, parent=task.key, role={WORK: task.key}))
    analysis = supervisor_run(analyze, run["prompt"])
    last = _final_task(task, analysis, [work_key], {ANALYZE: task.key, "run": run})
    return [*parts, replace(last, on_dependency_failure=task.on_dependency_failure)]


def supervisor_run(supervisor: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """Return the job of an agent that reviews a task. The task's *prompt* is escaped, so that it is not rendered."""
    return parse_job({**supervisor, "prompt": templates.escape_template(prompt)}).to_json()


def answer_task(
    asker: Claim, who: Mapping[str, Any], question: str, *, question_id: str, task_id: str, number: int
) -> DiscoveredTask:
    """Return the task in which the agent *who* answers a question of *asker*, the *number*-th that it asked."""
    key = f"{asker.key}/{ANSWER}"
    job = asker.job_kind.instruction(asker.work)
    task = {
        "key": key if number == 1 else f"{key}.{number}",
        "title": f"Answer: {asker.title}"[:500],
        "run": supervisor_run(who, job),
        "needs": list(asker.needs),
        "on_dependency_failure": OnDependencyFailure.RUN.value,
        "parent": asker.key,
    }
    role = {ANSWER: task_id, "question_id": question_id, "question": question}
    return DiscoveredTask(task, role=role, by_system=True)


def _final_task(task: Task, run: Any, needs: Sequence[str], role: Mapping[str, Any]) -> Task:
    """Return the task with the original key, which runs after its parts."""
    return Task(
        task.key,
        run,
        title=task.title,
        needs=list(needs),
        agent=None,
        parent=task.parent,
        priority=task.priority,
        on_dependency_failure=OnDependencyFailure.RUN,
        due=task.due,
        workdir=task.workdir,
        criteria=task.criteria,
        metadata=task.metadata,
        role=role,
    )


def supervision_of(value: Mapping[str, Any]) -> Supervision | None:
    """Parse the mapping ``supervision`` of a plan or a project. Raises Refused for what is wrong with it."""
    if unknown := [name for name in value if name not in {ASSESS, ANALYZE}]:
        raise Refused(
            f"supervision has no {excerpt(unknown[0])}", hint=f"It has {ASSESS} and {ANALYZE}", field=str(unknown[0])
        )
    agents = {name: check_supervisor(who, name) for name, who in value.items() if who is not None}
    return Supervision(**agents) if agents else None


def check_supervisor(value: Mapping[str, Any] | str, what: str) -> dict[str, Any]:
    """Return the job, without a prompt, of an agent that reviews or answers. Raises Refused when it is invalid."""
    run = {"agent": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else None
    if run is None or "prompt" in run or (run.get("agent") == CUSTOM and "command" not in run):
        message = f"{what} must be an agent, not {excerpt(value)}"
        raise Refused(message, hint=f"Write {what}: claude, or a run without its prompt", field=what)
    try:
        body = parse_job({**run, "prompt": "x"}).to_json()
    except Refused as refused:
        raise Refused(refused.message, hint=refused.hint, field=inside(what, refused.field)) from None
    del body["prompt"]
    return body
