"""All transactions lock rows in one order: whatever meets, no deadlock, and nobody waits for a lock in vain."""

from __future__ import annotations

import pytest

from tests.support.traffic import Traffic, hurry_deadlocks, refused_by_the_server
from tests.support.world import World

pytestmark = [pytest.mark.stores("postgres"), pytest.mark.own_database]


def test_all_transactions_meet_on_one_graph_and_none_is_ended_for_its_locks(world: World) -> None:
    hurry_deadlocks(world.store)
    traffic = Traffic(world, seed=7)

    with refused_by_the_server(world.store) as refused:
        traffic.flow(6)

    for error in traffic.accidents:
        raise error
    assert not refused, f"{len(refused)} statements, such as\n" + "\n\n".join(sorted(refused)[:10])
    assert traffic.unavailable == []
    assert {"claim", "end", "beat", "notes", "tick", "cancel", "retry", "force", "retain"} <= set(traffic.done)
