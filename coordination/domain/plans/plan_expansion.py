"""One task of a plan that becomes several: variants that race, and the tasks of a supervised loop around it.

The task keeps its key, and with it whatever needs it; its parts have keys below it: ``fix/1``, ``fix/assess``. What a
part is for stands in its ``role``, which is stored with it.

* variants: ``fix/1``, ``fix/2``, … do the work; ``fix`` takes over what the first one gave that passed its gates.
* supervision: ``fix/assess`` looks at the task while what it needs still runs; ``fix/work`` does it; ``fix`` analyses
  what was done.
* a question that it asks, if an agent answers: ``fix/answer``, a task that is found when the question is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordination.base.errors import PlanError, Refused, inside
from coordination.base.wording import excerpt
from coordination.domain.jobs import CUSTOM, KINDS, PythonCall, parse_job, templates
from coordination.domain.jobs.accounts import fits
from coordination.domain.plans.plans import Plan, Supervision, Task
from coordination.domain.plans.variants import CHOOSE_VARIANT
from coordination.domain.tasks.attempts import Claim, Discovered
from coordination.domain.tasks.tasks import OnDependencyFailure

MOST_VARIANTS = 16

VARIANT, CHOOSE, ASSESS, WORK, ANALYZE, ANSWER = "variant", "choose", "assess", "work", "analyze", "answer"
"""Roles, as keys of a role's mapping; each maps to what it is about."""

KIND_OF_CHOICE = f"python:{CHOOSE_VARIANT}"
"""The kind of a task that takes over from its variants."""

ANSWERER = "questions"
"""Under which name who answers stands: in a plan, in a project's settings, and in the metadata of a run."""

SUPERVISION = "supervision"
"""Under which name who supervises stands, in the same places."""

VARIANTS = "variants"
"""What the metadata of a run say that has any."""

_OF_ANOTHER_AGENT = ("prompt", "env", "secrets")


def expanded(plan: Plan) -> Plan:
    """*plan* with every task that has variants or is supervised in its parts; the same plan if there is none.

    Raises PlanError with the task's line.
    """
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
        raise Refused(f"its parts are called {of}/…, and another task is {excerpt(key)} already")


def _parts(plan: Plan, task: Task) -> list[Task]:
    if task.variants:
        return _variants(task)
    supervision = plan.supervision
    if supervision is None or not task.supervised or not parse_job(task.run).asks_a_model:
        return [task]
    return _loop(task, supervision.assess, supervision.analyze)


def _variants(task: Task) -> list[Task]:
    differences = overlays(task.variants)
    parts = [
        replace(
            task,
            key=f"{task.key}/{number}",
            run=varied(parse_job(task.run).to_json(), overlay),
            title=f"{task.title or task.key}, variant {number}",
            parent=task.key,
            variants=(),
            role={VARIANT: number},
        )
        for number, overlay in enumerate(differences, start=1)
    ]
    keys = [part.key for part in parts]
    return [*parts, _collects(task, PythonCall(CHOOSE_VARIANT, args={"task": task.key}), keys, {CHOOSE: keys})]


def overlays(variants: Any) -> Sequence[Mapping[str, Any]]:
    """What differs in each of a task's variants; Refused for what says none, or too many."""
    if isinstance(variants, bool | str | Mapping) or not isinstance(variants, int | Sequence):
        raise Refused(f"variants is a number or a list of what differs, not {excerpt(variants)}", field="variants")
    count = variants if isinstance(variants, int) else len(variants)
    if not 2 <= count <= MOST_VARIANTS:  # noqa: PLR2004 - one is none
        raise Refused(f"variants are from 2 to {MOST_VARIANTS}, not {count}", field="variants")
    return [{}] * count if isinstance(variants, int) else list(variants)


def varied(run: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """The job *run* with what a variant says differently; Refused when that makes no job.

    Of another agent it has the prompt and the environment, not the arguments: these belong to a program. So does an
    account that names its agent, ``claude@work``.
    """
    if not isinstance(overlay, Mapping):
        raise Refused(f"A variant maps keys of run to what differs, not {excerpt(overlay)}", field="variants")
    other = any(kind in overlay and overlay[kind] != run.get(kind) for kind in KINDS)
    base = {name: run[name] for name in _OF_ANOTHER_AGENT if name in run} if other else dict(run)
    job = parse_job({**base, **overlay})
    if other and "account" not in overlay and (account := run.get("account")) is not None:
        return parse_job(job.to_json() | ({"account": account} if fits(account, job.provider) else {})).to_json()
    return job.to_json()


def _loop(task: Task, assess: Mapping[str, Any] | None, analyze: Mapping[str, Any] | None) -> list[Task]:
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
    about = supervisor_run(analyze, run["prompt"])
    last = _collects(task, about, [work_key], {ANALYZE: task.key, "run": run})
    return [*parts, replace(last, on_dependency_failure=task.on_dependency_failure)]


def supervisor_run(supervisor: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """The job of an agent that assesses or analyses a task with that *prompt*, which it reads as it was written."""
    return parse_job({**supervisor, "prompt": templates.literal(prompt)}).to_json()


def answering(
    asker: Claim, who: Mapping[str, Any], question: str, *, question_id: str, task_id: str, number: int
) -> Discovered:
    """The task in which *who* answers a question of *asker*, the *number*-th that it has asked."""
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
    return Discovered(task, role=role, by_system=True)


def _collects(task: Task, run: Any, needs: Sequence[str], role: Mapping[str, Any]) -> Task:
    """The task itself, which comes after its parts."""
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
    """Who supervises, as a project's settings say it; Refused for what says nobody."""
    if unknown := [name for name in value if name not in {ASSESS, ANALYZE}]:
        raise Refused(
            f"supervision has no {excerpt(unknown[0])}", hint=f"It has {ASSESS} and {ANALYZE}", field=str(unknown[0])
        )
    found = {name: check_supervisor(who, name) for name, who in value.items() if who is not None}
    return Supervision(**found) if found else None


def check_supervisor(value: Mapping[str, Any] | str, what: str) -> dict[str, Any]:
    """Who assesses or analyses, as a job without its prompt; Refused when that is none."""
    run = {"agent": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else None
    if run is None or "prompt" in run or (run.get("agent") == CUSTOM and "command" not in run):
        raise Refused(
            f"{what} must be an agent, not {excerpt(value)}",
            hint=f"Write {what}: claude, or a run without its prompt",
            field=what,
        )
    try:
        body = parse_job({**run, "prompt": "x"}).to_json()
    except Refused as refused:
        raise Refused(refused.message, hint=refused.hint, field=inside(what, refused.field)) from None
    del body["prompt"]
    return body
