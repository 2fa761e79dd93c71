"""Checks of a plan and its graph, before anything is stored. Linear in the number of tasks and dependencies."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

from coordination.base import durations
from coordination.base.errors import PlanError, Refused, inside
from coordination.base.json_values import json_problem, text_problem
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import Job, parse_job, templates
from coordination.domain.jobs.accounts import check_account
from coordination.domain.jobs.artifacts import outputs_problem
from coordination.domain.jobs.changed_files import CHANGES
from coordination.domain.jobs.checkouts import FOLDER, Checkout, common_base, parse_checkout, parse_gates
from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from coordination.domain.money.caps import parse_caps
from coordination.domain.money.estimates import parse_estimate
from coordination.domain.plans.plan_expansion import overlays
from coordination.domain.plans.plans import (
    MAX_KEY,
    MAX_TASKS,
    MAX_TITLE,
    BudgetCap,
    Defaults,
    Dependency,
    Plan,
    Task,
    upstream_keys,
)
from coordination.domain.tasks.tasks import HIGHEST_MAX_STARTS, DependencyKind, OnDependencyFailure

Refuse = Callable[..., NoReturn]
"""A function that raises; its arguments are a message, a hint or None, and the field that is wrong."""

MAX_ATTEMPTS = 1_000_000
MAX_PRIORITY = 1_000_000_000
MAX_SLOTS = 1_000_000
MAX_FACTOR = 1000.0
MAX_CRITERION = 2_000

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_KEY = re.compile(r"[\w./:][\w./:-]*")
_ENV_NAME = re.compile(r"[^=\0]+")
_SHOWN_IN_CYCLE = 12
_BUDGET_HINT = 'Write budget=BudgetCap(usd=Decimal("5.00"))'


def check_plan(plan: Plan, *, existing: Collection[str] = ()) -> dict[str, Job]:
    """Return the plan's jobs by key. Raises PlanError, with file and line, for the first problem.

    *existing*: keys of stored tasks that the plan's tasks may need. Tasks with the same object ``run`` share a Job.
    """
    if not plan.tasks:
        raise PlanError("The plan has no tasks", source=plan.source, hint="List them under tasks", field="tasks")
    if len(plan.tasks) > MAX_TASKS:
        message = f"The plan has {len(plan.tasks):,} tasks; at most {MAX_TASKS:,} are possible"
        raise PlanError(message, source=plan.source, hint="Submit it in parts", field="tasks")
    _check_plan_fields(plan)
    _check_keys(plan)
    keys = {*existing, *(task.key for task in plan.tasks)}
    seen: dict[int, Job] = {}  # by id() of ``run``, which lives as long as the plan
    works = {task.key: _check_task(plan, task, keys, seen) for task in plan.tasks}
    _check_checkouts(plan)
    _check_parents(plan)
    topological_order(plan)
    return works


def topological_order(plan: Plan) -> list[str]:
    """Return the keys of *plan*, each after the keys that it depends on, otherwise in the order of the plan.

    Raises PlanError for a cycle. Only dependencies that delay a task count. Keys must be unique and dependencies
    known (see check_plan).
    """
    children: dict[str, list[str]] = {task.key: [] for task in plan.tasks}
    waits: dict[str, int] = dict.fromkeys(children, 0)
    for task in plan.tasks:
        for parent in upstream_keys(task.needs):
            if parent in children:  # otherwise it is stored already, and cannot depend on new tasks
                children[parent].append(task.key)
                waits[task.key] += 1
    order = [key for key, count in waits.items() if not count]
    for key in order:  # the list grows during the loop
        for child in children[key]:
            waits[child] -= 1
            if not waits[child]:
                order.append(child)
    if len(order) < len(plan.tasks):
        _refuse_cycle(plan, {key for key, count in waits.items() if count})
    return order


def _refuse_cycle(plan: Plan, waiting: set[str]) -> NoReturn:
    """Raise PlanError with a cycle among *waiting*, each of which needs another of them, so any path leads into one."""
    needs = {task.key: upstream_keys(task.needs) for task in plan.tasks if task.key in waiting}
    path: list[str] = []
    seen: dict[str, int] = {}
    key = next(iter(needs))
    while key not in seen:
        seen[key] = len(path)
        path.append(key)
        key = next(other for other in needs[key] if other in waiting)
    cycle = path[seen[key] :]
    raise _error(
        plan,
        cycle[0],
        f"These tasks need each other, so none can start: {_chain(cycle)}",
        hint="Each needs the one after its arrow; remove one of these dependencies",
        field="needs",
    )


def _chain(cycle: Sequence[str]) -> str:
    names = [*cycle, cycle[0]]
    if len(names) > _SHOWN_IN_CYCLE:
        omission = f"… {len(names) - _SHOWN_IN_CYCLE:,} more …"
        names = [*names[: _SHOWN_IN_CYCLE // 2], omission, *names[-_SHOWN_IN_CYCLE // 2 :]]
    return " -> ".join(names)


def _error(plan: Plan, key: str, message: str, *, hint: str | None = None, field: str | None = None) -> PlanError:
    return PlanError(
        message, source=plan.source, line=plan.lines.get(key), hint=hint, field=inside(f"tasks.{key}", field)
    )


def _check_plan_fields(plan: Plan) -> None:
    def refuse(message: str, hint: str | None = None, *, field: str | None = None) -> NoReturn:
        raise PlanError(message, source=plan.source, hint=hint, field=field)

    def refuse_default(message: str, hint: str | None = None, *, field: str | None = None) -> NoReturn:
        refuse(f"defaults: {message}", hint, field=inside("defaults", field))

    check_name(refuse, "name", plan.name)
    check_name(refuse, "session", plan.session)
    check_name(refuse, "project.name", plan.project.name)
    check_name(refuse, "project.git_remote", plan.project.git_remote, longest=2_000)
    check_name(refuse, "project.path", plan.project.path, longest=4_000)
    for folder in plan.python_path:
        check_name(refuse, "python_path", folder, longest=4_000)
    defaults = plan.defaults
    _check_rules(refuse_default, defaults)
    with _refusing(refuse_default):
        if defaults.account is not None:
            check_account(defaults.account)
    _check_limits(refuse_default, defaults.limits)
    limits = plan.concurrency
    slots = {"concurrency.project": limits.project}
    slots |= {f"concurrency.agents.{name}": limit for name, limit in limits.agents.items()}
    slots |= {f"concurrency.keys.{name}": limit for name, limit in limits.keys.items()}
    for place, limit in slots.items():
        if limit is not None and not is_whole(limit, 1, MAX_SLOTS):
            problem = f"must be a whole number from 1 to {MAX_SLOTS:,}, not {excerpt(limit)}"
            refuse(f"{excerpt(place)[1:-1]} {problem}", field=place)
        check_name(refuse, "A name under concurrency", place, field=place)
    _check_budget(refuse, plan.budget)


def _check_budget(refuse: Refuse, cap: BudgetCap | None) -> None:
    if cap is None:
        return
    if not isinstance(cap, BudgetCap) or not isinstance(cap.usd, Decimal | None):
        refuse("budget must be a BudgetCap with an exact amount", _BUDGET_HINT, field="budget")
    try:
        parse_caps(cap.to_mapping())
    except Refused as refusal:
        refuse(f"budget: {refusal.message}", refusal.hint, field=inside("budget", refusal.field))


@contextmanager
def _refusing(refuse: Refuse, *, field: str | None = None) -> Iterator[None]:
    """Pass refusals of a value to *refuse*; *field*: for those without one."""
    try:
        yield
    except Refused as refused:
        refuse(refused.message, refused.hint, field=refused.field or field)


def _check_keys(plan: Plan) -> None:
    first: dict[str, int] = {}
    for number, task in enumerate(plan.tasks, start=1):
        key = getattr(task, "key", None)
        if not isinstance(task, Task) or not isinstance(key, str) or not key:
            place = f"tasks[{number - 1}].key"
            message = f"Task number {number} has no key"
            raise PlanError(message, source=plan.source, hint="Every task needs a key", field=place)
        if len(key) > MAX_KEY:
            message = f"The key {excerpt(key)} is longer than {MAX_KEY} characters"
            raise _error(plan, key, message, hint="Use title for descriptions", field="key")
        if not _KEY.fullmatch(key):
            hint = "A key consists of letters, digits and . _ - / : and does not begin with -"
            raise _error(plan, key, f"{excerpt(key)} cannot be a key", hint=hint, field="key")
        if key in first:
            message = f"Tasks number {first[key]} and {number} have the same key {excerpt(key)}"
            raise _error(plan, key, message, field="key")
        first[key] = number


def _check_task(plan: Plan, task: Task, keys: set[str], jobs: dict[int, Job]) -> Job:
    def refuse(message: str, hint: str | None = None, *, field: str | None = None) -> NoReturn:
        raise _error(plan, task.key, f"Task {excerpt(task.key)}: {message}", hint=hint, field=field)

    title = task.title
    if title is not None:
        check_name(refuse, "title", title, longest=MAX_TITLE)
    _check_needs(refuse, task, keys)
    if task.parent is not None and task.parent not in keys:
        hint = did_you_mean(str(task.parent), keys)
        refuse(f"its parent {excerpt(task.parent)} is not in the plan", hint, field="parent")
    if not is_whole(task.priority, -MAX_PRIORITY, MAX_PRIORITY):
        refuse(f"priority must be a whole number, not {excerpt(task.priority)}", field="priority")
    if not isinstance(task.repeatable, bool):
        refuse(f"repeatable must be true or false, not {excerpt(task.repeatable)}", field="repeatable")
    _check_rules(refuse, task)
    _check_limits(refuse, task.limits)
    _check_budget(refuse, task.budget)
    check_name(refuse, "concurrency_key", task.concurrency_key)
    for name, moment in (("not_before", task.not_before), ("due", task.due)):
        if moment is not None and not (isinstance(moment, datetime) and moment.utcoffset() is not None):
            refuse(f"{name} must be a moment with its offset from UTC, not {excerpt(moment)}", field=name)
    if task.outputs != () and (problem := outputs_problem(task.outputs)):
        refuse(f"outputs {problem}", field="outputs")
    check_json(refuse, "input", task.input)
    check_json(refuse, "metadata", task.metadata)
    _check_more(refuse, task)
    work = jobs.get(id(task.run)) or _check_work(refuse, task, jobs)
    if task.expects is not None and work.kind != "agent":
        message = f"expects is for jobs of agents, and this is a {work.kind} job"
        refuse(message, hint="Remove it, or check with a gate what must have changed", field="expects")
    return work


def _check_more(refuse: Refuse, task: Task) -> None:
    """Check rarely used fields."""
    if task.estimate:
        with _refusing(refuse, field="estimate"):
            parse_estimate(task.estimate)
    if task.variants:
        with _refusing(refuse):
            overlays(task.variants)
    for criterion in task.criteria:
        check_name(refuse, "A criterion", criterion, longest=MAX_CRITERION, field="criteria")
    if task.expects not in (None, CHANGES):
        refuse(f"expects is {excerpt(task.expects)}", f"It may be: {CHANGES}", field="expects")


def _check_needs(refuse: Refuse, task: Task, keys: set[str]) -> None:
    if isinstance(task.needs, str):
        refuse("needs is a list of keys, not one text", f"Write [{excerpt(task.needs)}]", field="needs")
    seen: set[str] = set()
    for need in task.needs:
        if not isinstance(need, str) and not (
            isinstance(need, Dependency) and isinstance(need.key, str) and isinstance(need.kind, DependencyKind)
        ):
            refuse(f"{excerpt(need)} in needs is neither a key nor a Dependency", field="needs")
        key = need if isinstance(need, str) else need.key
        if key == task.key:
            refuse("it needs itself", field="needs")
        if key not in keys:
            refuse(f"it needs {excerpt(key)}, which is not in the plan", did_you_mean(key, keys), field="needs")
        if key in seen:
            refuse(f"it needs {excerpt(key)} twice", field="needs")
        seen.add(key)


def _check_rules(refuse: Refuse, rules: Task | Defaults) -> None:
    """Check the fields that tasks and the plan's defaults have in common."""
    for name, value in (("timeout", rules.timeout), ("stall_timeout", rules.stall_timeout)):
        if value is not None and not (isinstance(value, timedelta) and timedelta(0) < value <= durations.MAX_DURATION):
            wanted = f"longer than zero and at most {durations.MAX_DURATION.days:,} days"
            refuse(f"{name} must be {wanted}, not {excerpt(value)}", field=name)
    for name, number, most in (
        ("max_attempts", rules.max_attempts, MAX_ATTEMPTS),
        ("max_starts", rules.max_starts, HIGHEST_MAX_STARTS),
    ):
        if number is not None and not is_whole(number, 1, most):
            refuse(f"{name} must be a whole number from 1 to {most:,}, not {excerpt(number)}", field=name)
    if (backoff := rules.backoff) is not None:
        for name, wait in (("initial", backoff.initial), ("max", backoff.maximum)):
            if not (isinstance(wait, timedelta) and timedelta(0) <= wait <= durations.MAX_DURATION):
                wanted = f"from zero to {durations.MAX_DURATION.days:,} days"
                refuse(f"backoff.{name} must be {wanted}, not {excerpt(wait)}", field=f"backoff.{name}")
        factor = backoff.factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= MAX_FACTOR:
            bounds = f"a number from 1 to {MAX_FACTOR:,.0f}"
            refuse(f"backoff.factor must be {bounds}, not {excerpt(factor)}", field="backoff.factor")
    name, policy = "on_dependency_failure", rules.on_dependency_failure
    if policy is not None and not isinstance(policy, OnDependencyFailure):
        refuse(f"{name} can be {', '.join(OnDependencyFailure)}, not {excerpt(policy)}", field=name)
    check_name(refuse, "workdir", rules.workdir, longest=4_000)
    check_name(refuse, "agent", rules.agent)


def _check_limits(refuse: Refuse, limits: Limits) -> None:
    if not isinstance(limits, Limits):
        refuse(f"limits must be Limits, not {excerpt(limits)}", "Write limits=Limits(memory=2 << 30)", field="limits")
    if limits is not NO_LIMITS and (problem := limits.problem()):
        refuse(problem, field="limits")


def _check_work(refuse: Refuse, task: Task, jobs: dict[int, Job]) -> Job:
    try:
        work = parse_job(task.run)
        body: dict[str, Any] = work.to_json()
        if problem := json_problem(body):
            refuse(f"its job {problem}", field="run")
        if any(not _ENV_NAME.fullmatch(name) for name in body.get("env", ())):
            refuse("a name in env is empty or contains =", field="run.env")
        if templates.is_templated(body):  # the names that it may use depend on the task's needs
            templates.check_work(body, needs=set(upstream_keys(task.needs)))
        else:
            jobs[id(task.run)] = work
    except PlanError:
        raise
    except Refused as refused:
        refuse(refused.message, refused.hint, field=inside("run", refused.field))
    return work


def _check_checkouts(plan: Plan) -> None:
    """Check all checkouts and gates, and that the run's branch has one base."""
    has_default = plan.gates != () or plan.defaults.checkout is not FOLDER
    if not has_default and not any(task.gates or task.checkout is not None for task in plan.tasks):
        return
    try:
        parse_gates(plan.gates)
        shared = parse_checkout(plan.defaults.checkout)
    except Refused as refused:
        raise PlanError(refused.message, source=plan.source, hint=refused.hint, field=refused.field) from None
    used: dict[Checkout, str] = {}
    for task in plan.tasks:
        if not task.gates and task.checkout is None:
            used.setdefault(shared, task.key)
            continue
        try:
            parse_gates(task.gates)
            used.setdefault(shared if task.checkout is None else parse_checkout(task.checkout), task.key)
        except Refused as refused:
            message = f"Task {excerpt(task.key)}: {refused.message}"
            raise _error(plan, task.key, message, hint=refused.hint, field=refused.field) from None
    try:
        common_base(used)
    except Refused as refused:
        last = next(key for checkout, key in reversed(used.items()) if checkout != FOLDER)
        raise _error(plan, last, refused.message, hint=refused.hint, field="checkout.base") from None


def _check_parents(plan: Plan) -> None:
    """Check that no task is its own ancestor."""
    parents = {task.key: task.parent for task in plan.tasks if task.parent is not None}
    ended: set[str] = set()
    for start in parents:
        path: dict[str, None] = {}
        key: str | None = start
        while key is not None and key not in ended and key not in path:
            path[key] = None
            key = parents.get(key)
        if key is not None and key in path:
            cycle = list(path)[list(path).index(key) :]
            message = f"These tasks are each other's parents: {_chain(cycle)}"
            raise _error(plan, cycle[0], message, field="parent")
        ended.update(path)


def check_name(refuse: Refuse, what: str, text: object, *, longest: int = MAX_KEY, field: str | None = None) -> None:
    """Refuse a value that is not a text of one line: empty, too long, or with control characters."""
    if text is None:
        return
    field = field or what
    if not isinstance(text, str):
        refuse(f"{what} must be a text, not {excerpt(text)}", field=field)
    if not text.strip():
        refuse(f"{what} is empty", "Leave it out, or write a text", field=field)
    if len(text) > longest:
        refuse(f"{what} has {len(text):,} characters, at most {longest:,} are possible: {excerpt(text)}", field=field)
    if problem := text_problem(text):
        refuse(f"{what} {problem}: {excerpt(text)}", field=field)
    if _CONTROL.search(text):
        refuse(f"{what} must be one line without control characters: {excerpt(text)}", field=field)


def check_json(refuse: Refuse, what: str, value: object) -> None:
    """Refuse a value that is not a mapping that JSON can express."""
    if not isinstance(value, Mapping):
        refuse(f"{what} must map names to values, not {excerpt(value)}", field=what)
    if value and (problem := json_problem(dict(value))):
        refuse(f"{what} {problem}", field=what)


def is_whole(value: object, lowest: int, highest: int) -> bool:
    """Return whether *value* is a whole number within these bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
