"""Test retention in pages and batches: each old run is checked once, and no transaction deletes too much."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import update

from coordination.domain.money.costs import correction_id
from coordination.domain.tasks.attempts import Usage
from coordination.flows.projects import retain as flow
from coordination.flows.projects.retain import RetentionAges, retain
from coordination.services.attempts.end import build_cost_record
from coordination.services.money import ledger
from coordination.store.queries.projects import retention
from coordination.store.tables.tasks.runs import runs
from coordination.store.types import db_after
from tests.support.world import World

AGES = RetentionAges(runs=timedelta(days=90), workers=timedelta(0), costs=timedelta(0))


def age(world: World) -> None:
    """Let the run that was submitted last have ended a hundred days ago."""
    with world.store.write() as tx:
        long_ago = db_after(-timedelta(days=100).total_seconds())
        tx.execute(update(runs).where(runs.c.id == world.run_id).values(finished_at=long_ago))


def test_runs_that_must_stay_are_passed_by_once_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_PAGE", 2)
    kept = []
    for number in range(5):
        key = f"t{number}"
        kept.append(world.submit(key).run_id)
        world.claim(key)
        world.cancel(key)  # its worker has not ended the job yet, so the run is needed
        age(world)

    done = retain(world.store, world.workspace, AGES, rest=lambda _seconds: False)

    assert done is not None
    assert sorted(done.needed) == sorted(kept)


@pytest.mark.parametrize("limit", [3, 10, 11])
def test_rows_of_several_tables_share_one_limit(world: World, limit: int) -> None:
    world.submit(*(f"a{number}" for number in range(8)), "last < a0 a1 a2")
    world.do(*(f"a{number}" for number in range(8)), "last")
    age(world)
    with world.store.write() as tx:
        assert retention.mark(tx, world.workspace, world.run_id, age=timedelta(days=90))
    batches = []

    while deleted := world.store.transact(
        lambda tx: retention.delete_batch(tx, world.workspace, world.run_id, limit=limit)
    ):
        batches.append(sum(deleted.values()))

    assert max(batches) <= limit
    assert world.sql("SELECT count(*) FROM runs")[0][0] == 0


def test_a_correction_goes_before_the_call_that_it_corrects(world: World) -> None:
    world.submit("a")
    world.claim("a")
    long_ago = datetime.now(UTC) - timedelta(days=100)
    call = build_cost_record(world.claims["a"], Usage("m", input_tokens=1, cost_usd=Decimal(1), id="call"), long_ago)
    call = replace(call, run_id=None, task_id=None, attempt=None)
    corrected = replace(call, id=correction_id(call.id, 1), corrects=call.id, cost_usd=Decimal(-1))
    world.store.transact(lambda tx: ledger.append_records(tx, world.workspace, [call, corrected]))

    with world.store.read() as tx:
        (first,) = retention.old_costs(tx, world.workspace, age=timedelta(days=90), limit=1)

    assert first["id"] == corrected.id
