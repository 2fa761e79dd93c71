"""Test that what attempts of a dead worker had reported is recorded once, by any worker that finds it, and no more."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest

from coordination.base.started_jobs import StartedJobs
from coordination.domain.plans.plans import BudgetCap
from coordination.domain.tasks.attempts import Claim, Usage
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.money.checkpoint_costs import checkpoint_costs
from coordination.store.engine import Store
from tests.flows.test_budgets import costing, counted, use
from tests.support.world import World
from workers.attempt.folders import AttemptFolders
from workers.leases.cost_settling import CostSettling
from workers.leases.usage_meter import UsageMeter, UsagePrices
from workers.runners import usage_file
from workers.runners.environment import Scratch
from workers.runners.usage_file import CostJournal, UsageFile, folder_name


def line(dollars: str, **more: object) -> str:
    return json.dumps({"model": "m", "input_tokens": 1, "cost_usd": dollars, **more}) + "\n"


class Dead:
    """A worker that was killed: its folder, and the files of its attempts in it."""

    def __init__(self, world: World, scratch: Path) -> None:
        self.world = world
        self.scratch = scratch
        self.folder = scratch / "w-1"
        self.folder.mkdir(parents=True)
        StartedJobs(self.folder, world.worker, 4)
        self.prices = UsagePrices(world.store)
        self.settling = CostSettling(world.store, self.prices)

    def claim(self, key: str = "a") -> Claim:
        self.world.claim(key, estimator=costing("0.10"))
        return self.world.claims[key]

    def writes(self, claim: Claim, *lines: str, own: bool = False) -> Path:
        path = Path(Scratch(self.folder_of(claim) if own else self.folder, claim).costs)
        path.write_text("".join(lines))
        return path

    def folder_of(self, claim: Claim) -> Path:
        """Create the folder of an attempt as a killed worker leaves it."""
        folder = self.folder / folder_name(claim.task_id, claim.attempt, 1)
        folder.mkdir(mode=0o700)
        return folder

    def heartbeat(self, claim: Claim, usage_meter: UsageMeter) -> None:
        due = usage_meter.due()
        self.world.store.transact(partial(checkpoint_costs, workspace_id=self.world.workspace, records=due))
        usage_meter.mark_written(due)

    def is_rescued(self) -> None:
        assert self.settling.settle_worker(self.scratch, self.world.worker)
        self.world.store.transact(lambda tx: rescue_worker(tx, self.world.worker))

    def ledger(self) -> list[tuple[Decimal | None, bool]]:
        rows = self.world.sql("SELECT cost_usd, stale FROM costs ORDER BY cost_usd")
        return [(None if row.cost_usd is None else Decimal(row.cost_usd), bool(row.stale)) for row in rows]

    def total(self) -> Decimal:
        return sum((dollars or Decimal(0) for dollars, _ in self.ledger()), Decimal(0))


@pytest.fixture
def dead(store: Store, tmp_path: Path) -> Dead:
    world = World(store)
    world.submit("a", "b", budget=BudgetCap(Decimal(10)))
    return Dead(world, tmp_path)


def test_what_no_heartbeat_wrote_counts_before_its_attempt_ends_as_lost(dead: Dead) -> None:
    claim = dead.claim()
    dead.writes(claim, line("0.25"), line("0.50", id="x1"), own=True)
    dead.writes(claim, line("1"))  # reported by a gate

    dead.is_rescued()

    assert dead.ledger() == [(Decimal("0.25"), False), (Decimal("0.50"), False), (Decimal(1), False)]
    assert (use(dead.world).spent.usd, use(dead.world).reserved.usd) == (Decimal("1.75"), 0)
    assert usage_file.unsettled_in(dead.folder) == {}
    counted(dead.world)


def test_what_a_heartbeat_wrote_is_not_written_twice(dead: Dead) -> None:
    claim = dead.claim()
    path = dead.writes(claim, line("0.25"), line("0.50", id="x1"), line("1"))
    usage_meter = UsageMeter(claim, dead.prices)
    UsageFile(str(path), usage_meter.set_usage).poll()
    dead.heartbeat(claim, usage_meter)
    with path.open("a") as file:
        file.write(line("2") + line("4", id="x2"))

    for _ in range(2):
        dead.settling.settle_worker(dead.scratch, dead.world.worker, alive=True)

    assert dead.total() == Decimal("7.75")
    assert len(dead.ledger()) == 5


def test_what_its_worker_was_told_counts_too(dead: Dead) -> None:
    claim = dead.claim()
    usage_meter = UsageMeter(claim, dead.prices, CostJournal(dead.folder, (claim.task_id, claim.attempt)))
    usage_meter.set_usage([Usage("claude", input_tokens=100, cost_usd=Decimal("0.10"))])
    dead.heartbeat(claim, usage_meter)
    usage_meter.set_usage([Usage("claude", input_tokens=300, cost_usd=Decimal("0.25")), Usage("small", input_tokens=5)])

    dead.is_rescued()

    assert dead.ledger() in (
        [(None, False), (Decimal("0.10"), False), (Decimal("0.15"), False)],  # as each store sorts unknown values
        [(Decimal("0.10"), False), (Decimal("0.15"), False), (None, False)],
    )
    tokens = dead.world.sql("SELECT sum(input_tokens) AS tokens FROM costs")
    assert int(tokens[0].tokens) == 305


def test_what_a_heartbeat_wrote_of_what_was_told_is_not_taken_back(dead: Dead) -> None:
    claim = dead.claim()
    usage_meter = UsageMeter(claim, dead.prices)
    usage_meter.set_usage([Usage("claude", input_tokens=100, cost_usd=Decimal("0.10"))])
    dead.heartbeat(claim, usage_meter)
    dead.writes(claim, line("1"))

    dead.is_rescued()  # no file on disk describes the agent

    assert dead.total() == Decimal("1.10")


def test_what_was_told_to_a_worker_that_may_go_on_is_left_to_it(dead: Dead) -> None:
    claim = dead.claim()
    usage_meter = UsageMeter(claim, dead.prices, CostJournal(dead.folder, (claim.task_id, claim.attempt)))
    usage_meter.set_usage([Usage("claude", input_tokens=100, cost_usd=Decimal("0.10"))])
    dead.writes(claim, line("1"))

    dead.settling.settle_worker(dead.scratch, dead.world.worker, alive=True)

    assert dead.total() == 1
    assert set(usage_file.unsettled_in(dead.folder)) == {(claim.task_id, claim.attempt)}


def test_what_is_found_after_the_attempt_was_rescued_elsewhere_counts_once_and_is_marked(dead: Dead) -> None:
    claim = dead.claim()
    dead.writes(claim, line("3"))
    dead.world.store.transact(lambda tx: rescue_worker(tx, dead.world.worker))
    assert dead.ledger() == []

    assert dead.settling.settle_folder(dead.folder)
    dead.writes(claim, line("3"))
    assert dead.settling.settle_folder(dead.folder)

    assert [stale for _, stale in dead.ledger()] == [True, True], "two executions, each counted once"
    assert use(dead.world).spent.usd == 6
    counted(dead.world)


def test_the_files_of_an_attempt_that_runs_here_are_left_alone(dead: Dead) -> None:
    running, over = dead.claim("a"), dead.claim("b")
    dead.writes(running, line("1"))
    dead.writes(over, line("2"))

    dead.settling.settle_own(dead.folder, lambda: [(running.task_id, running.attempt)])

    assert dead.total() == 2
    assert set(usage_file.unsettled_in(dead.folder)) == {(running.task_id, running.attempt)}


def test_no_link_is_followed_and_no_other_name_counts(dead: Dead, tmp_path: Path) -> None:
    claim, other = dead.claim("a"), dead.claim("b")
    theirs = dead.writes(other, line("5"))
    outside = tmp_path / "outside.jsonl"
    outside.write_text(line("7"))
    Path(Scratch(dead.folder, claim).costs).symlink_to(outside)
    own = dead.folder_of(claim)
    (own / Scratch(own, other).costs).write_text(line("9"))  # another attempt's file name, in a folder of its own
    Path(Scratch(own, claim).costs).symlink_to(theirs)
    (dead.folder / f"{claim.task_id}.1.costs.jsonl").write_text(line("11"))
    os.mkfifo(Scratch(dead.folder, claim).costs)

    dead.is_rescued()

    assert dead.ledger() == [(Decimal(5), False)]


def test_what_cannot_be_stored_of_one_keeps_no_other_from_it(dead: Dead, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = dead.claim("a"), dead.claim("b")
    dead.writes(bad, line("1", input_tokens=10**12))
    dead.writes(good, line("2"))
    monkeypatch.setattr(
        dead.prices,
        "add_cost",
        lambda of, used: replace(used, total_tokens=2**70) if of.key == "a" else used,
    )

    dead.is_rescued()

    assert dead.ledger() == [(Decimal(2), False)]


class TestKept:
    """Test that a report stays on disk until the end of its attempt is stored."""

    @pytest.mark.parametrize("own", [True, False])
    def test_a_report_outlives_its_execution(self, dead: Dead, own: bool) -> None:  # noqa: FBT001 - a case
        claim = dead.claim()
        usage_file.keep_in(dead.folder)
        with Scratch(dead.folder_of(claim) if own else dead.folder, claim) as scratch:
            scratch.write_input(claim)
            Path(scratch.costs).write_text(line("1"))
        (left,) = usage_file.unsettled_in(dead.folder).values()
        assert [path.read_text() for path in left.files] == [line("1")]
        assert not list(dead.folder.rglob("*input*"))

        usage_file.discard_report([(claim.task_id, claim.attempt)])

        assert usage_file.unsettled_in(dead.folder) == {}

    def test_one_that_stood_elsewhere_is_brought_home(self, dead: Dead, tmp_path: Path) -> None:
        claim = dead.claim()
        usage_file.keep_in(dead.folder)
        place = tmp_path / "place"
        place.mkdir()
        with Scratch(dead.folder, claim) as scratch:
            scratch.move_costs(str(place))
            Path(scratch.costs).write_text(line("1"))

        assert list(place.iterdir()) == []
        (left,) = usage_file.unsettled_in(dead.folder).values()
        assert [path.parent for path in left.files] == [dead.folder]

    def test_one_that_stands_elsewhere_is_found_while_its_execution_runs(self, dead: Dead, tmp_path: Path) -> None:
        claim = dead.claim()
        usage_file.keep_in(dead.folder)
        place = tmp_path / "place"
        place.mkdir()
        scratch = Scratch(dead.folder, claim)
        scratch.move_costs(str(place))
        Path(scratch.costs).write_text(line("1"))

        dead.is_rescued()

        assert dead.ledger() == [(Decimal(1), False)]
        assert [*place.iterdir(), *dead.folder.glob("*.at")] == []

    def test_where_nothing_was_reported_nothing_stays(self, dead: Dead) -> None:
        claim = dead.claim()
        usage_file.keep_in(dead.folder)
        with AttemptFolders(dead.folder).make(claim) as own, Scratch(own, claim) as scratch:
            Path(scratch.costs).touch()

        assert [path.name for path in dead.folder.iterdir() if not path.name.startswith("started-")] == []


def test_what_is_told_comes_back_as_it_was(tmp_path: Path) -> None:
    one = Usage("m", 3, 2, 1, 9, Decimal("0.10"), "i", "s", None, {"cache_write_input_tokens": 1})
    values: Mapping[str, object] = {"fence": ("00000000-0000-0000-0000-000000000000", 1)}
    keeper = CostJournal(tmp_path, values["fence"])  # type: ignore[arg-type]
    keeper.write([one, replace(one, cost_usd=None, total_tokens=None)])

    (reports,) = usage_file.unsettled_in(tmp_path).values()
    assert reports.journal is not None
    assert usage_file.read_journal(reports.journal) == [one, replace(one, cost_usd=None, total_tokens=None)]
    reports.journal.write_text("[{")
    assert usage_file.read_journal(reports.journal) == []
