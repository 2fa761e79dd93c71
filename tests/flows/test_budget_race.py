"""Test many workers that race for the budget of one run: the database checks that no commit passes a cap."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from coordination.domain.money.budgets import BudgetScope
from coordination.domain.plans.plans import BudgetCap
from coordination.store.engine import Store
from coordination.store.queries.money import budgets, costs
from tests.support.money_race import ESTIMATE, race, watch
from tests.support.sources import ROOT
from tests.support.world import World

pytestmark = pytest.mark.own_database

JOBS = int(os.environ.get("COORD_TEST_RACE", "600"))
"""10,000 for the whole of it."""

PROCESSES, THREADS = 4, 16


@pytest.mark.timeout(1200)
@pytest.mark.full
def test_no_commit_ever_passes_the_cap(store: Store, store_url: str) -> None:
    world = World(store)
    cap = ESTIMATE * JOBS / 4  # about half of the jobs' true costs
    world.submit(*(f"t{number}" for number in range(JOBS)), budget=BudgetCap(cap))
    watch(store)
    argv = [sys.executable, "-m", "tests.support.money_race", store_url, world.workspace, world.project_id]

    racing = [
        subprocess.Popen([*argv, str(number), str(THREADS)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    done = sum(int(process.communicate(timeout=1100)[0]) for process in racing)

    assert [process.returncode for process in racing] == [0] * PROCESSES
    with store.read() as tx:
        (one,) = budgets.list_budgets(tx, world.workspace)
        use = budgets.read_uses(tx, world.workspace, [(one.id, "")])[one.id, ""]
        spent, _, _ = costs.total(tx, world.workspace, run_id=world.run_id)
        stored = budgets.sum_spent(tx, world.workspace, BudgetScope.RUN, world.run_id, since=None)
    states = list(world.states().values())
    assert use.spent.usd == spent == stored.usd
    assert use.reserved.usd == 0
    assert cap - ESTIMATE < spent <= cap, "all of it was spent that could be"
    assert states.count("completed") == done
    assert states.count("blocked") == JOBS - done


@pytest.mark.timeout(300)
def test_no_commit_ever_passes_a_cap_of_starts(world: World) -> None:
    cap, keys = 40, [f"t{number}" for number in range(60)]
    tasks = {key: {"run": {"agent": "claude", "prompt": "x"}} for key in keys}
    world.submit(*keys, tasks=tasks, budget=BudgetCap(starts=cap))
    watch(world.store)

    done = race(world.store, world.workspace, world.project_id, seed="s", threads=THREADS)

    with world.store.read() as tx:
        (one,) = budgets.list_budgets(tx, world.workspace)
        use = budgets.read_uses(tx, world.workspace, [(one.id, "")])[one.id, ""]
        counted = budgets.count_starts(tx, world.workspace, BudgetScope.RUN, world.run_id, since=None)
    states = list(world.states().values())
    assert use.spent.starts == counted == cap, "all of them were used that could be"
    assert states.count("completed") == done <= cap
    assert states.count("blocked") == len(keys) - done


@pytest.mark.parametrize(
    "passing", ["UPDATE budget_uses SET spent_usd = '1.01'", "UPDATE budget_uses SET spent_starts = 3"]
)
def test_the_watch_sees_a_cap_that_is_passed(world: World, passing: str) -> None:
    world.submit("a", budget=BudgetCap(Decimal(1), starts=2))
    with world.store.write() as tx:
        (one,) = budgets.list_budgets(tx, world.workspace)
        budgets.lock_uses(tx, world.workspace, [(one.id, "")], create=[(one.id, "")])
    watch(world.store)

    with pytest.raises((DBAPIError, IntegrityError), match="was passed"):
        world.sql(passing)
