"""Test that the report names tasks without a worker of their workspace, although workers of others are alive."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from coordination.flows.tasks.explain_task import explain_task
from coordination.store.reports.fleet import health
from coordination.store.tables.fleet.workers import workers
from tests.support.world import World

LIVE = timedelta(minutes=1)
PATIENCE = health.HealthThresholds(stuck=LIVE, lease=LIVE, late=LIVE)


@pytest.fixture
def waiting(world: World) -> World:
    """Provide a workspace called default with a task that is ready, and one worker."""
    world.submit("a")
    return world


def serve(world: World, names: list[str] | None) -> None:
    """Let the one worker run jobs of these workspaces."""
    with world.store.write() as tx:
        tx.execute(update(workers).values(serves=names))


def blockers(world: World) -> list[tuple[str, str]]:
    with world.store.read() as tx:
        explanation = explain_task(tx, world.workspace, world.task("a"), live_within=LIVE)
    return [(one.kind, one.line()) for one in explanation.blockers]


@pytest.mark.parametrize("names", [None, ["default"], ["other", "default"]])
def test_a_worker_of_the_workspace_takes_the_task(waiting: World, names: list[str] | None) -> None:
    serve(waiting, names)

    assert blockers(waiting) == []
    with waiting.store.read() as tx:
        assert list(health.unserved_queue(tx, waiting.workspace, patience=PATIENCE, messages=None)) == []


@pytest.mark.parametrize("names", [["other"], ["default2", "a"]])
def test_workers_of_other_workspaces_only_are_said_to_be_such(waiting: World, names: list[str]) -> None:
    serve(waiting, names)

    ((kind, detail),) = blockers(waiting)
    assert kind == "no_worker"
    assert "no living worker runs jobs of the workspace default" in detail
    assert "COORD_WORKSPACES=default coord worker" in detail
    with waiting.store.read() as tx:
        (finding,) = health.unserved_queue(tx, waiting.workspace, patience=PATIENCE, messages=None)
    assert "no worker of their workspace is alive" in finding.sentence
