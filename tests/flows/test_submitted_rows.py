"""Test the rows of a new task: whether it waits and for what, and the folder in which it runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from coordination.domain.plans.plans import Defaults, Dependency
from coordination.domain.tasks.tasks import NO_REASON, BlockReason, DependencyKind
from tests.support.world import World


@pytest.mark.parametrize(
    ("wait", "state", "reasons"),
    [(timedelta(hours=-1), "queued", NO_REASON), (timedelta(hours=1), "blocked", BlockReason.NOT_BEFORE)],
)
def test_a_task_waits_only_for_a_time_that_is_to_come(
    world: World, wait: timedelta, state: str, reasons: BlockReason
) -> None:
    world.submit("a", tasks={"a": {"not_before": datetime.now(UTC) + wait}})

    assert (world.task("a").state, world.task("a").reasons) == (state, reasons)


@pytest.mark.parametrize(
    ("own", "default", "folder"),
    [
        (None, None, "/srv/shop"),
        (None, "all", "/srv/shop/all"),
        ("own", "all", "/srv/shop/own"),
        ("/elsewhere", "all", "/elsewhere"),
    ],
)
def test_a_task_runs_in_its_own_folder_before_the_plans_and_the_projects(
    world: World, own: str | None, default: str | None, folder: str
) -> None:
    world.submit("a", tasks={"a": {"workdir": own}}, defaults=Defaults(workdir=default))

    assert world.task("a").workdir == folder


@pytest.mark.parametrize("kind", DependencyKind)
def test_a_need_is_counted_when_it_holds_back(world: World, kind: DependencyKind) -> None:
    world.submit("a", "b", tasks={"b": {"needs": [Dependency("a", kind)]}})

    assert world.task("b").pending == int(kind.holds_back)
    assert world.task("b").state == ("blocked" if kind.holds_back else "queued")
    assert (world.task("a").pending, world.task("a").state) == (0, "queued")


def test_a_task_starts_after_what_it_needs_and_not_the_other_way_round(world: World) -> None:
    world.submit("first", "then < first")
    before = world.states()

    world.do("first")

    assert before == {"first": "queued", "then": "blocked"}
    assert world.states() == {"first": "completed", "then": "queued"}
