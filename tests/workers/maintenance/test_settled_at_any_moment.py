"""Test that the ledger has each call once, with its dollars, whatever an attempt reports and whenever a worker dies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random

import pytest

from coordination.base.clock import utc_now
from coordination.domain.money.costs import CostRecord
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import AttemptEnd, Outcome, Usage
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.services.attempts.end import decide_end
from coordination.store.engine import Store
from tests.flows.test_budgets import counted
from tests.support.world import World
from tests.workers.maintenance.test_settled_reports import Dead, line
from workers.leases.usage_meter import UsageMeter
from workers.runners import usage_file
from workers.runners.usage_file import CostJournal, UsageFile

MOMENTS = ("before its end", "after its end, which was not stored", "after its end was stored")
SEEDS = range(5)
MODELS = ("m", "claude-sonnet-4-5", "gpt-5-mini")


class Job:
    """An attempt that reports some calls to its worker and writes others to a file, chosen by *chance*."""

    def __init__(self, dead: Dead, chance: Random) -> None:
        self.dead = dead
        self.chance = chance
        self.claim = dead.claim("a")
        self.path = dead.writes(self.claim)
        self.usage_meter = UsageMeter(
            self.claim, dead.prices, CostJournal(dead.folder, (self.claim.task_id, self.claim.attempt))
        )
        self.following = UsageFile(str(self.path), self._read)
        self.told: dict[str, Usage] = {}
        self.lines: Sequence[Usage] = ()
        self.tells_dollars = {model: chance.random() < 0.4 for model in MODELS}

    def _read(self, lines: Sequence[Usage]) -> None:
        self.lines = tuple(lines)
        self._spent()

    def _spent(self) -> None:
        self.usage_meter.set_usage([*self.told.values(), *self.lines])

    def tells(self) -> None:
        model = self.chance.choice(MODELS)
        before = self.told[model].input_tokens if model in self.told else 0
        used = before + self.chance.randint(1, 500)
        dollars = Decimal(used) / 1000 if self.tells_dollars[model] else None
        self.told[model] = Usage(model, input_tokens=used, cost_usd=dollars)
        self._spent()

    def writes(self) -> None:
        more = self.chance.choice(({}, {"id": "theirs"}, {"id": "x1"}, {"id": "x2"}))
        unpriced = json.dumps({"model": "gpt-5-mini", "input_tokens": self.chance.randint(1, 100), **more}) + "\n"
        with self.path.open("a") as file:
            file.write(self.chance.choice((unpriced, line(str(self.chance.randint(1, 9)), **more))))
        self.following.poll()

    def is_written(self) -> None:
        """Run a heartbeat; for some of them the worker does not learn that their commit succeeded."""
        if self.chance.random() < 0.7:
            self.dead.heartbeat(self.claim, self.usage_meter)
        else:
            due, world = self.usage_meter.due(), self.dead.world
            world.store.transact(partial(checkpoint_costs, workspace_id=world.workspace, records=due))

    def end(self) -> list[Usage]:
        """Return the usage at its end, which may include dollars that were unknown before."""
        knows = self.chance.random() < 0.7
        record = [
            replace(one, cost_usd=Decimal(one.input_tokens) / 100) if knows or self.tells_dollars[one.model] else one
            for one in self.told.values()
        ]
        return [*record, *usage_file.read_usage(str(self.path))[0]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_each_call_is_in_the_ledger_once(store: Store, tmp_path: Path, moment: str, seed: int) -> None:
    world = World(store)
    world.submit("a", "b", budget=BudgetCap(Decimal(1000)))
    dead = Dead(world, tmp_path)
    dead.writes(dead.claim("b"), line("0.50", id="theirs"))  # another attempt has used that id
    dead.settling.settle_worker(dead.scratch, world.worker, alive=True)
    for other in usage_file.unsettled_in(dead.folder).values():
        other.delete()
    job = Job(dead, Random(seed))  # noqa: S311 - a test
    for _ in range(12):
        job.chance.choice((job.tells, job.writes, job.is_written))()
    messages = [*job.told.values(), *usage_file.read_usage(str(job.path))[0]] if moment == MOMENTS[0] else job.end()
    undisturbed = UsageMeter(job.claim, dead.prices).final_costs(messages)[0]

    if moment != MOMENTS[0]:
        costs, written = job.usage_meter.final_costs(messages)
        if moment == MOMENTS[2]:
            result = AttemptEnd(Outcome.COMPLETED, usage=tuple(messages))
            world.write(decide_end(job.claim, result, now=utc_now(), costs=costs, recorded_costs=written))
            counted(world)
    dead.is_rescued()
    first = dead.ledger()
    dead.settling.settle_folder(dead.folder)

    assert dead.ledger() == first
    assert dead.total() == Decimal("0.50") + dollars(undisturbed)
    tokens = world.sql("SELECT sum(input_tokens) AS tokens FROM costs")
    assert int(tokens[0].tokens) == 1 + sum(one.input_tokens for one in undisturbed)
    counted(world)


def dollars(records: Sequence[CostRecord]) -> Decimal:
    return sum((one.cost_usd or Decimal(0) for one in records), Decimal(0))
