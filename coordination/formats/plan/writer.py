"""A Plan as a plan file that reads back equal. Leaves out what is as by default."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from coordination.base.durations import write_duration
from coordination.base.sizes import write_size
from coordination.domain.jobs.checkouts import parse_checkout, parse_gates
from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.jobs.work import parse_work
from coordination.domain.plans.plan_expansion import ANSWERER, check_supervisor
from coordination.domain.plans.plans import Dependency, Plan, Task
from coordination.domain.tasks.retry import Backoff
from coordination.formats.plan.budgets import write_budget
from coordination.formats.plan.estimates import write_estimate
from coordination.formats.plan.reader import VERSION
from coordination.formats.plan.scalars import plain_value

_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LONG = 100


class _Dumper(_BASE):  # type: ignore[misc] # the C class where there is one
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - everything is written out
        return True


def _text(dumper: Any, text: str) -> Any:
    if "\n" in text and text.isprintable() is False and _block(text):
        style: str | None = "|"
    elif not isinstance(plain_value(text), str) or text in ("<<", "=", ""):
        style = '"'
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _block(text: str) -> bool:
    """Whether *text* keeps its form as a block of lines, which a shell script is read best as."""
    return text[0] not in " \n\t" and all(line.isprintable() and not line.endswith(" ") for line in text.split("\n"))


_Dumper.add_representer(str, _text)


def write_plan(plan: Plan) -> str:
    """*plan* as YAML. Functions are written by their names; PlanError or Refused for jobs that have none."""
    document: dict[str, Any] = {"version": VERSION}
    document |= _given(
        project=_given(name=plan.project.name, git_remote=plan.project.git_remote, path=plan.project.path),
        name=plan.name,
        session=plan.session,
        defaults=_defaults(plan),
        budget=write_budget(plan.budget),
        concurrency=_given(
            project=plan.concurrency.project, agents=dict(plan.concurrency.agents), keys=dict(plan.concurrency.keys)
        ),
        supervision=None
        if plan.supervision is None
        else _given(assess=_plain(plan.supervision.assess), analyze=_plain(plan.supervision.analyze)),
        questions=None if plan.questions is None else _plain(check_supervisor(plan.questions, ANSWERER)),
        gates=_gates(plan.gates),
        python_path=list(plan.python_path),
    )
    document["tasks"] = [_task(task) for task in plan.tasks]
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LONG)
    return text


def _given(**values: Any) -> dict[str, Any]:
    """*values* without those that say nothing."""
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _defaults(plan: Plan) -> dict[str, Any]:
    rules, standard = plan.defaults, type(plan.defaults)()
    written = {
        "timeout": write_duration(rules.timeout),
        "stall_timeout": None if rules.stall_timeout is None else write_duration(rules.stall_timeout),
        "max_attempts": rules.max_attempts,
        "max_starts": rules.max_starts,
        "backoff": _backoff(rules.backoff),
        "on_dependency_failure": rules.on_dependency_failure.value,
        "workdir": rules.workdir,
        "agent": rules.agent,
        "limits": _limits(rules.limits),
        "checkout": _checkout(rules.checkout),
        "account": rules.account,
    }
    return _given(**{name: value for name, value in written.items() if getattr(rules, name) != getattr(standard, name)})


def _task(task: Task) -> dict[str, Any]:
    return {"key": task.key} | _given(
        title=task.title,
        run=parse_work(task.run).to_json(),
        needs=[_need(need) for need in task.needs],
        input=_plain(task.input),
        agent=task.agent,
        parent=task.parent,
        priority=task.priority or None,
        max_attempts=task.max_attempts,
        max_starts=task.max_starts,
        backoff=None if task.backoff is None else _backoff(task.backoff),
        timeout=None if task.timeout is None else write_duration(task.timeout),
        stall_timeout=None if task.stall_timeout is None else write_duration(task.stall_timeout),
        repeatable=None if task.repeatable else False,
        on_dependency_failure=None if task.on_dependency_failure is None else task.on_dependency_failure.value,
        concurrency_key=task.concurrency_key,
        not_before=_moment(task.not_before),
        due=_moment(task.due),
        workdir=task.workdir,
        criteria=list(task.criteria),
        context=None if task.context else False,
        variants=_plain(task.variants) or None,
        supervised=None if task.supervised else False,
        limits=_limits(task.limits),
        outputs=list(task.outputs),
        checkout=None if task.checkout is None else _checkout(task.checkout),
        gates=_gates(task.gates),
        budget=write_budget(task.budget),
        estimate=write_estimate(task.estimate),
        metadata=_plain(task.metadata),
        expects=task.expects,
    )


def _checkout(written: Any) -> Any:
    checkout = parse_checkout(written)
    body = checkout.to_json()
    if checkout.keep_failed is not None:
        body["keep_failed"] = write_duration(checkout.keep_failed)
    return body if len(body) > 1 else body["kind"]


def _gates(written: Any) -> list[Any]:
    bodies = []
    for gate in parse_gates(written):
        body = gate.to_json()
        bodies.append(body if isinstance(body, str) else body | {"timeout": write_duration(gate.timeout)})
    return bodies


def _need(need: str | Dependency) -> Any:
    return need if isinstance(need, str) else {"key": need.key, "kind": need.kind.value}


def _backoff(backoff: Backoff) -> dict[str, Any]:
    return {
        "initial": write_duration(backoff.initial),
        "factor": backoff.factor,
        "max": write_duration(backoff.maximum),
    }


def _limits(limits: Limits) -> dict[str, Any]:
    return _given(
        memory=None if limits.memory is None else write_size(limits.memory),
        cpu=None if limits.cpu is None else write_duration(limits.cpu),
        files=limits.files,
        output=None if limits.output is None else write_size(limits.output),
    )


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
