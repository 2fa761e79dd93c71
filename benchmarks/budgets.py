"""What budgets cost: the same jobs under three nested caps that they never reach, and without any."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

from benchmarks import goals
from benchmarks.bench import Bench, no_op
from benchmarks.measure import in_turns, ratios, series
from benchmarks.ours import OurStack
from benchmarks.report import Line
from coordination import BudgetCap, Task
from coordination.domain.money.budgets import BudgetPeriod, BudgetScope
from coordination.domain.money.caps import parse_caps
from coordination.flows.money.set_budget import set_budget

_FREE, _CAPPED = "free", "capped"


def measure(bench: Bench) -> list[Line]:
    """Tasks per second with budgets of the project (a month), of the session (a day) and of the run, and without."""
    return [
        *_measure(bench, "no-op tasks, each expected to cost a cent", bench.size(5000), _expected),
        *_measure(bench, "tasks that tell of a call of a model", bench.size(2000), _spending),
    ]


def _measure(bench: Bench, what: str, count: int, make: object) -> list[Line]:
    assert callable(make)
    sides = {}
    for kind, stack in bench.ours.items():
        _cap(stack)
        sides[f"{kind}, {_FREE}"] = lambda of=stack: of.seconds(make(count), project=_FREE)
        budget = BudgetCap(Decimal(1_000_000))
        sides[f"{kind}, {_CAPPED}"] = partial(_capped, stack, make, count, budget)
    taken = in_turns(bench.rounds, sides)
    found = {who: [count / seconds for seconds in values] for who, values in taken.items()}
    lines = [
        Line(f"{count:,} {what}, {which} {how}", kind, series(found[f"{kind}, {which}"], "tasks/s"))
        for kind in bench.ours
        for which, how in ((_FREE, "of any cap"), (_CAPPED, "three times"))
    ]
    for kind in bench.ours:
        with_, without = found[f"{kind}, {_CAPPED}"], found[f"{kind}, {_FREE}"]
        lines.append(Line(f"{count:,} {what}, beside no budget", kind, ratios(with_, without), goal=goals.WITH_BUDGETS))
    return lines


def _capped(stack: OurStack, make: object, count: int, budget: BudgetCap) -> float:
    assert callable(make)
    return stack.seconds(make(count), project=_CAPPED, budget=budget)


def _cap(stack: OurStack) -> None:
    """Caps that nothing reaches, for one of the two projects."""
    run = stack.submit([no_op("first")], project=_CAPPED)
    stack.end_of(run)
    store, workspace_id = stack.co.runtime.store, stack.co.runtime.workspace_id
    caps = parse_caps({"usd": 1_000_000, "tokens": 10**12})
    scopes = (
        (BudgetScope.PROJECT, run.record.project_id, BudgetPeriod.MONTH),
        (BudgetScope.SESSION, run.record.session_id, BudgetPeriod.DAY),
    )
    for scope, subject, period in scopes:
        with store.write() as tx:
            set_budget(tx, workspace_id, caps, scope=scope, subject=subject, period=period)


def _expected(count: int) -> list[Task]:
    return [
        Task(f"t{index}", {"python": "benchmarks.jobs:nothing"}, estimate={"usd": "0.01", "tokens": 10})
        for index in range(count)
    ]


def _spending(count: int) -> list[Task]:
    return _tasks({"python": "benchmarks.jobs:spend", "args": {"usd": "0.001"}}, count)


def _tasks(job: dict[str, Any], count: int) -> list[Task]:
    return [Task(f"t{index}", job, estimate={"usd": "0.01", "tokens": 10}) for index in range(count)]
