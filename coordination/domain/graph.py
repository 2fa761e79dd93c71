"""The graph of a plan: whether it can be run at all, said before anything is stored. Linear in tasks and needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

from coordination.domain import durations, templates
from coordination.domain.artifacts import outputs_problem
from coordination.domain.budgets import caps_of
from coordination.domain.estimates import parse_stated
from coordination.domain.excerpts import did_you_mean, excerpt
from coordination.domain.expansion import overlays
from coordination.domain.json_values import json_problem, text_problem
from coordination.domain.limits import Limits
from coordination.domain.plans import MAX_KEY, MAX_TASKS, MAX_TITLE, Backoff, BudgetCap, Dependency, Plan, Task
from coordination.domain.tasks import DependencyKind, OnDependencyFailure
from coordination.domain.work import Work, parse_work
from coordination.domain.workspaces import FOLDER, Workspace, common_base, parse_gates, parse_workspace
from coordination.errors import PlanError, Refused

MAX_ATTEMPTS = 1_000_000
MAX_PRIORITY = 1_000_000_000
MAX_SLOTS = 1_000_000
MAX_FACTOR = 1000.0
MAX_CRITERION = 2_000

_KEY = re.compile(r"[\w./:][\w./:-]*")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_ENV_NAME = re.compile(r"[^=\0]+")
_SHOWN_IN_CYCLE = 12


def check(plan: Plan, *, known: Collection[str] = ()) -> dict[str, Work]:
    """The plan's jobs by key; or PlanError, with file and line, for the first thing that keeps it from being run.

    *known*: keys of tasks that are there already, and may be needed. Tasks that share one description of their job,
    such as a function, share one Work.
    """
    if not plan.tasks:
        raise PlanError("The plan has no tasks", source=plan.source, hint="List them under tasks")
    if len(plan.tasks) > MAX_TASKS:
        raise PlanError(
            f"The plan has {len(plan.tasks):,} tasks; at most {MAX_TASKS:,} are possible",
            source=plan.source,
            hint="Submit it in parts",
        )
    _check_plan(plan)
    _check_keys(plan)
    keys = {*known, *(task.key for task in plan.tasks)}
    seen: dict[int, Work] = {}  # by the id of a description, which lives as long as the plan
    works = {task.key: _check_task(plan, task, keys, seen) for task in plan.tasks}
    _check_workspaces(plan)
    _check_parents(plan)
    topological_order(plan)
    return works


def topological_order(plan: Plan) -> list[str]:
    """The keys of *plan*, each after everything it waits for, otherwise as written. PlanError names a cycle.

    Only dependencies that hold back count. Keys must be unique and dependencies known (see check).
    """
    children: dict[str, list[str]] = {task.key: [] for task in plan.tasks}
    waits: dict[str, int] = dict.fromkeys(children, 0)
    for task in plan.tasks:
        for need in task.needs:
            if isinstance(need, str):
                parent = need
            elif need.kind.holds_back:
                parent = need.key
            else:
                continue
            if parent in children:  # else it is there already, and cannot wait for what comes now
                children[parent].append(task.key)
                waits[task.key] += 1
    order = [key for key, count in waits.items() if not count]
    for key in order:  # grows while it is read
        for child in children[key]:
            waits[child] -= 1
            if not waits[child]:
                order.append(child)
    if len(order) < len(plan.tasks):
        _refuse_cycle(plan, {key for key, count in waits.items() if count})
    return order


def _refuse_cycle(plan: Plan, left: set[str]) -> NoReturn:
    """*left* wait for each other: from any of them, going to what it needs never ends and so comes back."""
    needs = {task.key: task.needs for task in plan.tasks if task.key in left}
    path: list[str] = []
    seen: dict[str, int] = {}
    key = next(iter(needs))
    while key not in seen:
        seen[key] = len(path)
        path.append(key)
        key = next(other for other, waits in map(_edge, needs[key]) if waits and other in left)
    cycle = path[seen[key] :]
    raise _error(
        plan,
        cycle[0],
        f"These tasks need each other, so none can start: {_chain(cycle)}",
        hint="Each needs the one behind its arrow; take one of them out of a needs",
    )


def _chain(cycle: Sequence[str]) -> str:
    names = [*cycle, cycle[0]]
    if len(names) > _SHOWN_IN_CYCLE:
        left_out = f"… {len(names) - _SHOWN_IN_CYCLE:,} more …"
        names = [*names[: _SHOWN_IN_CYCLE // 2], left_out, *names[-_SHOWN_IN_CYCLE // 2 :]]
    return " -> ".join(names)


def _edge(need: str | Dependency) -> tuple[str, bool]:
    return (need, True) if isinstance(need, str) else (need.key, need.kind.holds_back)


def _error(plan: Plan, key: object, message: str, *, hint: str | None = None) -> PlanError:
    line = plan.lines.get(key) if isinstance(key, str) else None
    return PlanError(message, source=plan.source, line=line, hint=hint)


def _check_plan(plan: Plan) -> None:
    def refuse(message: str, hint: str | None = None) -> NoReturn:
        raise PlanError(message, source=plan.source, hint=hint)

    _check_name(refuse, "name", plan.name)
    _check_name(refuse, "session", plan.session)
    _check_name(refuse, "project.name", plan.project.name)
    _check_name(refuse, "project.git_remote", plan.project.git_remote, longest=2_000)
    _check_name(refuse, "project.path", plan.project.path, longest=4_000)
    for folder in plan.python_path:
        _check_name(refuse, "python_path", folder, longest=4_000)
    defaults = plan.defaults
    _check_rules(
        lambda message, hint=None: refuse(f"defaults: {message}", hint),
        timeout=defaults.timeout,
        stall_timeout=defaults.stall_timeout,
        max_attempts=defaults.max_attempts,
        backoff=defaults.backoff,
        on_dependency_failure=defaults.on_dependency_failure,
        workdir=defaults.workdir,
        agent=defaults.agent,
    )
    _check_limits(lambda message, hint=None: refuse(f"defaults: {message}", hint), defaults.limits)
    limits = plan.concurrency
    slots = {"concurrency.project": limits.project}
    slots |= {f"concurrency.agents.{name}": limit for name, limit in limits.agents.items()}
    slots |= {f"concurrency.keys.{name}": limit for name, limit in limits.keys.items()}
    for place, limit in slots.items():
        if limit is not None and not _is_whole(limit, 1, MAX_SLOTS):
            refuse(f"{excerpt(place)[1:-1]} must be a whole number from 1 to {MAX_SLOTS:,}, not {excerpt(limit)}")
        _check_name(refuse, "A name under concurrency", place)
    _check_budget(refuse, plan.budget)


def _check_budget(refuse: _Refuse, cap: BudgetCap | None) -> None:
    if cap is None:
        return
    if not isinstance(cap, BudgetCap) or not isinstance(cap.usd, Decimal | None):
        refuse("budget must be a BudgetCap with an exact amount", 'Write budget=BudgetCap(usd=Decimal("5.00"))')
    try:
        caps_of(cap.said())
    except Refused as refusal:
        refuse(f"budget: {refusal.message}", refusal.hint)


_Refuse = Callable[..., NoReturn]


def _check_keys(plan: Plan) -> None:
    first: dict[str, int] = {}
    for number, task in enumerate(plan.tasks, start=1):
        key = getattr(task, "key", None)
        if not isinstance(task, Task) or not isinstance(key, str) or not key:
            raise PlanError(f"Task number {number} has no key", source=plan.source, hint="Every task needs a key")
        if len(key) > MAX_KEY:
            message = f"The key {excerpt(key)} is longer than {MAX_KEY} characters"
            raise _error(plan, key, message, hint="Put what people read into title")
        if not _KEY.fullmatch(key):
            raise _error(
                plan,
                key,
                f"{excerpt(key)} cannot be a key",
                hint="A key has letters, digits and . _ - / : and does not begin with -",
            )
        if key in first:
            raise _error(plan, key, f"Tasks number {first[key]} and {number} have the same key {excerpt(key)}")
        first[key] = number


def _check_task(plan: Plan, task: Task, keys: set[str], known: dict[int, Work]) -> Work:
    def refuse(message: str, hint: str | None = None) -> NoReturn:
        raise _error(plan, task.key, f"Task {excerpt(task.key)}: {message}", hint=hint)

    title = task.title
    if title is not None:
        _check_name(refuse, "title", title, longest=MAX_TITLE)
    _check_needs(refuse, task, keys)
    if task.parent is not None and task.parent not in keys:
        refuse(f"its parent {excerpt(task.parent)} is not in the plan", did_you_mean(str(task.parent), keys))
    if not _is_whole(task.priority, -MAX_PRIORITY, MAX_PRIORITY):
        refuse(f"priority must be a whole number, not {excerpt(task.priority)}")
    if not isinstance(task.repeatable, bool):
        refuse(f"repeatable must be true or false, not {excerpt(task.repeatable)}")
    _check_rules(
        refuse,
        timeout=task.timeout,
        stall_timeout=task.stall_timeout,
        max_attempts=task.max_attempts,
        backoff=task.backoff,
        on_dependency_failure=task.on_dependency_failure,
        workdir=task.workdir,
        agent=task.agent,
    )
    _check_limits(refuse, task.limits)
    _check_budget(refuse, task.budget)
    _check_name(refuse, "concurrency_key", task.concurrency_key)
    for name, moment in (("not_before", task.not_before), ("due", task.due)):
        if moment is not None and not (isinstance(moment, datetime) and moment.utcoffset() is not None):
            refuse(f"{name} must be a moment with its offset from UTC, not {excerpt(moment)}")
    if problem := outputs_problem(task.outputs):
        refuse(f"outputs {problem}")
    _check_json(refuse, "input", task.input)
    _check_json(refuse, "metadata", task.metadata)
    _check_more(refuse, task)
    return known.get(id(task.run)) or _check_work(refuse, task, known)


def _check_more(refuse: _Refuse, task: Task) -> None:
    """What few tasks have."""
    if task.estimate:
        try:
            parse_stated(task.estimate)
        except Refused as refused:
            refuse(refused.message, refused.hint)
    if task.variants:
        try:
            overlays(task.variants)
        except Refused as refused:
            refuse(refused.message, refused.hint)
    for one in task.criteria:
        _check_name(refuse, "A criterion", one, longest=MAX_CRITERION)


def _check_needs(refuse: _Refuse, task: Task, keys: set[str]) -> None:
    if isinstance(task.needs, str):
        refuse("needs is a list of keys, not one text", f"Write [{excerpt(task.needs)}]")
    seen: set[str] = set()
    for need in task.needs:
        if not isinstance(need, str) and not (
            isinstance(need, Dependency) and isinstance(need.key, str) and isinstance(need.kind, DependencyKind)
        ):
            refuse(f"{excerpt(need)} in needs is neither a key nor a Dependency")
        key = need if isinstance(need, str) else need.key
        if key == task.key:
            refuse("it needs itself")
        if key not in keys:
            refuse(f"it needs {excerpt(key)}, which is not in the plan", did_you_mean(key, keys))
        if key in seen:
            refuse(f"it needs {excerpt(key)} twice")
        seen.add(key)


def _check_rules(
    refuse: _Refuse,
    *,
    timeout: timedelta | None,
    stall_timeout: timedelta | None,
    max_attempts: int | None,
    backoff: Backoff | None,
    on_dependency_failure: OnDependencyFailure | None,
    workdir: str | None,
    agent: str | None,
) -> None:
    """What a task and the plan's defaults have in common."""
    for name, value in (("timeout", timeout), ("stall_timeout", stall_timeout)):
        if value is not None and not (isinstance(value, timedelta) and timedelta(0) < value <= durations.LONGEST):
            refuse(f"{name} must be longer than zero and at most {durations.LONGEST.days:,} days, not {excerpt(value)}")
    if max_attempts is not None and not _is_whole(max_attempts, 1, MAX_ATTEMPTS):
        refuse(f"max_attempts must be a whole number from 1 to {MAX_ATTEMPTS:,}, not {excerpt(max_attempts)}")
    if backoff is not None:
        for name, wait in (("initial", backoff.initial), ("max", backoff.maximum)):
            if not (isinstance(wait, timedelta) and timedelta(0) <= wait <= durations.LONGEST):
                refuse(f"backoff.{name} must be from zero to {durations.LONGEST.days:,} days, not {excerpt(wait)}")
        factor = backoff.factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= MAX_FACTOR:
            refuse(f"backoff.factor must be a number from 1 to {MAX_FACTOR:,.0f}, not {excerpt(factor)}")
    if on_dependency_failure is not None and not isinstance(on_dependency_failure, OnDependencyFailure):
        refuse(f"on_dependency_failure can be {', '.join(OnDependencyFailure)}, not {excerpt(on_dependency_failure)}")
    _check_name(refuse, "workdir", workdir, longest=4_000)
    _check_name(refuse, "agent", agent)


def _check_limits(refuse: _Refuse, limits: Limits) -> None:
    if not isinstance(limits, Limits):
        refuse(f"limits must be Limits, not {excerpt(limits)}", "Write limits=Limits(memory=2 << 30)")
    if problem := limits.problem():
        refuse(problem)


def _check_name(refuse: _Refuse, what: str, text: object, *, longest: int = MAX_KEY) -> None:
    """A text of one line that people see in tables: not empty, not long, nothing that moves a cursor."""
    if text is None:
        return
    if not isinstance(text, str):
        refuse(f"{what} must be a text, not {excerpt(text)}")
    if not text.strip():
        refuse(f"{what} is empty", "Leave it out, or give it a text")
    if len(text) > longest:
        refuse(f"{what} has {len(text):,} characters, at most {longest:,} are possible: {excerpt(text)}")
    if problem := text_problem(text):
        refuse(f"{what} {problem}: {excerpt(text)}")
    if _CONTROL.search(text):
        refuse(f"{what} must be one line without control characters: {excerpt(text)}")


def _check_json(refuse: _Refuse, what: str, value: object) -> None:
    if not isinstance(value, Mapping):
        refuse(f"{what} must map names to values, not {excerpt(value)}")
    if value and (problem := json_problem(dict(value))):
        refuse(f"{what} {problem}")


def _check_work(refuse: _Refuse, task: Task, known: dict[int, Work]) -> Work:
    try:
        work = parse_work(task.run)
        body: dict[str, Any] = work.to_json()
        if problem := json_problem(body):
            refuse(f"its job {problem}")
        if any(not _ENV_NAME.fullmatch(name) for name in work.env):
            refuse("a name in env is empty or holds =")
        if templates.is_templated(body):  # what it may name depends on the task
            templates.check_work(body, needs={key for key, waits in map(_edge, task.needs) if waits})
        else:
            known[id(task.run)] = work
    except PlanError:
        raise
    except Refused as refused:
        refuse(refused.message, refused.hint)
    return work


def _check_workspaces(plan: Plan) -> None:
    """Workspaces and gates can be understood, and the run's branch begins in one place."""
    try:
        parse_gates(plan.gates)
        shared = parse_workspace(plan.defaults.workspace)
    except Refused as refused:
        raise PlanError(refused.message, source=plan.source, hint=refused.hint) from None
    used: dict[Workspace, str] = {}
    for task in plan.tasks:
        if not task.gates and task.workspace is None:
            used.setdefault(shared, task.key)
            continue
        try:
            parse_gates(task.gates)
            used.setdefault(shared if task.workspace is None else parse_workspace(task.workspace), task.key)
        except Refused as refused:
            message = f"Task {excerpt(task.key)}: {refused.message}"
            raise _error(plan, task.key, message, hint=refused.hint) from None
    try:
        common_base(used)
    except Refused as refused:
        last = next(key for space, key in reversed(used.items()) if space != FOLDER)
        raise _error(plan, last, refused.message, hint=refused.hint) from None


def _check_parents(plan: Plan) -> None:
    """Nobody is inside itself: following parents from any task ends."""
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
            raise _error(plan, cycle[0], f"These tasks are each other's parents: {_chain(cycle)}")
        ended.update(path)


def _is_whole(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest
