"""Test a race for a budget from outside: jobs and gates spend, workers are killed meanwhile, each sum is exact."""

from __future__ import annotations

import os
import random
import shlex
import sys
from collections import Counter, defaultdict
from datetime import timedelta
from decimal import Decimal

import pytest

from coordination.api.runs import Run
from coordination.domain.jobs.checkouts import Gate
from coordination.domain.money.budgets import BudgetScope
from coordination.domain.money.costs import CostRecord
from coordination.domain.plans.plans import BudgetCap, Task
from coordination.domain.tasks.tasks import RunState
from coordination.store.queries.money import costs
from tests.support.fleet import Fleet
from tests.support.processes import Process, until
from tests.support.sources import ROOT

JOBS = int(os.environ.get("COORD_TEST_RACE_JOBS", "64"))
KILLS = 6
SLOTS = "8"


def part(name: str, calls: int) -> str:
    text = f'"$RACE/{name}.$COORD_TASK_ID.$COORD_ATTEMPT"'
    return (
        f"cd {shlex.quote(str(ROOT))} && {shlex.quote(sys.executable)} -m tests.support.race_job {name} {calls} {text}"
    )


def ledger(fleet: Fleet, run: Run) -> list[CostRecord]:
    with fleet.co.runtime.store.read() as tx:
        return list(costs.each(tx, fleet.co.runtime.workspace_id, run_id=run.id))


def reported_amounts(fleet: Fleet) -> tuple[dict[str, int], dict[str, int]]:
    """Return the microdollars of all calls that were to be reported, and of those that were certainly reported."""
    amounts: dict[str, dict[str, int]] = {"c": {}, "C": {}}
    for path in fleet.file("race").iterdir():
        for line in path.read_text().splitlines():
            mark, name, micro = line.split()
            amounts[mark][name] = int(micro)
    return amounts["c"], amounts["C"]


def waits(fleet: Fleet, run: Run) -> bool:
    (standing,) = fleet.co.budgets.of(BudgetScope.RUN, run.id)
    return bool(standing.waiting)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_every_call_of_every_attempt_is_in_the_ledger_once(fleet: Fleet) -> None:
    chance = random.Random(18)  # noqa: S311 - a schedule, no secret
    fleet.file("race").mkdir()
    env = {"RACE": str(fleet.file("race"))}
    first = Decimal("0.05") * JOBS * 4  # less than they spend in total
    tasks = [
        Task(
            f"t{number}",
            {"shell": f"export RACE={env['RACE']}; {part('job', 4)}"},
            gates=(Gate(f"export RACE={env['RACE']}; {part('gate', 4)}"),),
            max_attempts=9,
        )
        for number in range(JOBS)
    ]
    # For some, heartbeats write next to nothing.
    settings = [{}, {"COORD_LEASE_HEARTBEAT": "900ms"}]
    workers: list[Process] = [fleet.worker("-c", SLOTS, **each) for each in settings]
    run = fleet.submit(*tasks, budget=BudgetCap(first))

    for kill in range(KILLS):
        enough = len(reported_amounts(fleet)[1]) + chance.randrange(5, 40)
        until(lambda enough=enough: len(reported_amounts(fleet)[1]) > enough or waits(fleet, run), what="some calls")  # type: ignore[misc]
        one = kill % len(workers)
        workers[one].kill()
        workers[one] = fleet.worker("-c", SLOTS, **settings[one])
    until(lambda: waits(fleet, run), within=timedelta(seconds=200), what="the cap")
    fleet.co.budgets.set("run", run.id, usd=10_000)
    assert run.wait(timeout=600) is RunState.COMPLETED

    intended, reported = reported_amounts(fleet)
    by_call = Counter(str(one.extra["call"]) for one in ledger(fleet, run))

    def missing() -> list[str]:
        by_call.update(str(one.extra["call"]) for one in ledger(fleet, run))
        return sorted(set(reported) - set(by_call))

    until(lambda: not missing(), within=timedelta(seconds=30), what="what killed workers had in their folders")
    result = ledger(fleet, run)
    assert [name for name, times in Counter(str(one.extra["call"]) for one in result).items() if times > 1] == []
    sums: dict[tuple[str, int], int] = defaultdict(int)
    for one in result:
        call = str(one.extra["call"])
        assert one.cost_usd == Decimal(intended[call]) / 1_000_000
        assert call.startswith(f"{one.task_id}.{one.attempt}.")
        sums[str(one.task_id), one.attempt or 0] += intended[call]
    assert run.cost == Decimal(sum(sums.values())) / 1_000_000
    assert all(one.right for one in fleet.co.budgets.check())
    assert not fleet.co.costs.check().wrong
    (standing,) = fleet.co.budgets.of(BudgetScope.RUN, run.id)
    assert (standing.spent.usd, standing.reserved.usd) == (run.cost, 0)
    assert any(number > 1 for _, number in sums), "some were killed"
