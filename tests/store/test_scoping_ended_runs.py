"""Test that an ended run of another workspace stays unchanged, and is neither marked nor deleted from here."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.store.engine import Store
from coordination.store.queries.projects import retention
from coordination.store.queries.tasks import runs
from tests.support.world import World


@pytest.fixture
def theirs(store: Store) -> World:
    """Provide a workspace with a run that has ended."""
    other_world = World(store, "theirs")
    other_world.submit("a")
    other_world.do("a")
    other_world.tick()  # it writes the end of the run
    return other_world


def test_a_run_that_has_ended_is_opened_again_by_its_own_workspace_only(store: Store, theirs: World) -> None:
    mine = World(store, "mine")

    with store.write() as tx:
        from_here = runs.reopen(tx, mine.workspace, theirs.run_id)
        ended = runs.get(tx, theirs.workspace, theirs.run_id)
        from_there = runs.reopen(tx, theirs.workspace, theirs.run_id)

    assert (from_here, from_there) == (False, True)
    assert ended is not None
    assert ended.finished_at is not None


def test_a_run_that_has_ended_is_marked_and_deleted_by_its_own_workspace_only(store: Store, theirs: World) -> None:
    mine, none = World(store, "mine"), timedelta(days=-1)

    with store.write() as tx:
        from_here = retention.mark(tx, mine.workspace, theirs.run_id, age=none)
        from_there = retention.mark(tx, theirs.workspace, theirs.run_id, age=none)
        deleted = retention.delete_batch(tx, mine.workspace, theirs.run_id, limit=100)

    assert (from_here, from_there, deleted) == (False, True, {})
