"""Test that a supervisor which cannot tick is reported: with its project, since when, and the last error."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.domain.fleet.supervisor_status import StatusThresholds
from coordination.flows.fleet import tick_supervisor
from coordination.flows.tasks.explain_task import explain_task
from coordination.store.queries.fleet import supervisors
from coordination.store.reports.fleet import supervision
from coordination.store.reports.projects import overview
from coordination.store.reports.projects.overview import ProjectLine
from tests.support.world import World

LIVE = timedelta(hours=1)


@pytest.fixture
def failing(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Let a tick succeed, and then two fail."""
    world.submit("a")
    world.tick()

    def broken(*_: object) -> None:
        raise ValueError("the plan of the week is not there")

    with monkeypatch.context() as patch:
        patch.setattr(tick_supervisor, "_lift_holds", broken)
        for _ in range(2):
            with pytest.raises(ValueError, match="plan of the week"):
                world.tick(rest=timedelta(0))
    return world


def last_good_tick(world: World) -> object:
    with world.store.read() as tx:
        supervisor_row = supervisors.get(tx, world.workspace, world.project_id)
    assert supervisor_row is not None
    return supervisor_row.heartbeat_at


def line_of(world: World) -> ProjectLine:
    with world.store.read() as tx:
        (line,) = overview.overview(tx, world.workspace, thresholds=StatusThresholds(), live_within=LIVE).projects
    return line


def test_the_overview_names_it(failing: World) -> None:
    line = line_of(failing)

    assert line.name == "shop"
    assert line.error == "ValueError: the plan of the week is not there"
    assert line.error_since == last_good_tick(failing)


def test_the_answer_about_its_project_names_it(failing: World) -> None:
    with failing.store.read() as tx:
        answer = supervision.orchestrator(tx, failing.workspace, failing.project_id, thresholds=StatusThresholds())

    assert answer["isHealthy"] is False
    assert answer["error"] == "ValueError: the plan of the week is not there"
    assert answer["failingSince"] == answer["lastPoll"]


def test_the_explanation_of_each_waiting_task_names_it(failing: World) -> None:
    with failing.store.read() as tx:
        explanation = explain_task(tx, failing.workspace, failing.task("a"), live_within=LIVE)

    (blocker,) = explanation.blockers
    assert blocker.kind == "supervisor"
    assert "has been failing since 20" in blocker.detail
    assert "the plan of the week is not there" in blocker.detail


def test_the_next_good_tick_takes_it_away(failing: World) -> None:
    failing.tick()

    assert (line_of(failing).error, line_of(failing).error_since) == (None, None)
    with failing.store.read() as tx:
        assert explain_task(tx, failing.workspace, failing.task("a"), live_within=LIVE).blockers == ()
