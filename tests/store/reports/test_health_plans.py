"""Test that the health report and force use indexes: their cost depends on open work, not on completed work."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.domain.tasks.tasks import FORCIBLE_STATES
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.queries.fleet import workers
from coordination.store.reports.fleet import health
from tests.store.test_query_plans import piled, read_whole, recorded  # noqa: F401 - piled is a fixture
from tests.support.world import World

pytestmark = pytest.mark.full

AT_ONCE = health.HealthThresholds(stuck=timedelta(0), lease=timedelta(0), late=timedelta(0))


def look(world: World) -> None:
    """Run all queries of ``coord doctor --live`` and of a watchdog."""
    with world.store.read() as tx:
        list(health.silent_workers(tx, patience=AT_ONCE))
        list(health.unserved_queue(tx, world.workspace, patience=AT_ONCE, messages=0))
        list(health.find_problems(tx, world.workspace, patience=AT_ONCE, thresholds=StatusThresholds()))
        health.ended_attempts(tx, world.workspace, [(world.ids["t2"], 1)], patience=timedelta(0))
        workers.count_overdue(tx, after=timedelta(0))


def force(world: World) -> None:
    """Force a task forward and back: all statements of it."""
    for target in (*FORCIBLE_STATES, *FORCIBLE_STATES):
        world.store.transact(
            lambda tx, target=target: force_task(tx, world.workspace, world.ids["t40"], target, actor="ann", reason="x")
        )


@pytest.mark.timeout(300)
def test_no_statement_of_it_reads_a_big_table_from_end_to_end(piled: World) -> None:  # noqa: F811 - the fixture
    with recorded(piled.store) as sent:
        look(piled)
        force(piled)

    assert len(sent) > 25
    wrong = {}
    with piled.store.write() as tx:
        for statement, parameters in sent.items():
            if result := read_whole(tx, statement, parameters):
                wrong[statement] = result
    assert not wrong, "\n\n".join(f"{sorted(result)} from end to end in:\n{sql}" for sql, result in wrong.items())
