"""Test quiet hours: no task of a project starts between two times of day in its zone; tasks start after them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from coordination.base.clock import utc_now
from coordination.base.errors import Refused
from coordination.domain.tasks.explanations import TaskExplanation
from coordination.domain.tasks.tasks import BlockReason
from coordination.flows.projects.change_project import change_project
from coordination.flows.tasks.explain_task import explain_task
from coordination.flows.tasks.find_obstacles import find_obstacles
from coordination.services.holds.quiet_hours import parse_window
from coordination.services.projects import projects
from tests.support.refusals import refuses
from tests.support.world import World, watched

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = {"from": "22:00", "to": "06:00"}


def end_of(hours: dict[str, str], moment: str, zone: ZoneInfo = BERLIN) -> str | None:
    """Return the end, in UTC, of the quiet hours that include a moment, given in UTC."""
    end = parse_window(hours).until(datetime.fromisoformat(moment).replace(tzinfo=UTC), zone)
    return None if end is None else f"{end:%Y-%m-%d %H:%M}"


@pytest.fixture
def shop(world: World) -> World:
    world.submit("a", "b")
    return world


def set_hours(world: World, hours: Any) -> int:
    def change(tx: Any) -> int:
        project = projects.find(tx, world.workspace, "shop")
        return change_project(tx, world.workspace, project, actor="ann", merged={"settings": {"quiet_hours": hours}})

    return world.store.transact(change)


def around_now(zone: str = "UTC", *, shift: timedelta = timedelta(0)) -> dict[str, str]:
    """Return quiet hours that began two hours ago and end in two, or shifted."""
    now = utc_now().astimezone(ZoneInfo(zone)) + shift
    two = timedelta(hours=2)
    return {"from": f"{now - two:%H:%M}", "to": f"{now + two:%H:%M}", "zone": zone}


def explained(world: World, key: str) -> TaskExplanation:
    with world.store.read() as tx:
        return explain_task(tx, world.workspace, world.task(key), live_within=timedelta(minutes=1))


class TestTheWindow:
    def test_by_day_it_begins_and_ends_on_the_same_day(self) -> None:
        day = {"from": "09:00", "to": "17:30"}

        assert end_of(day, "2026-06-10 06:59") is None
        assert end_of(day, "2026-06-10 07:00") == "2026-06-10 15:30"
        assert end_of(day, "2026-06-10 15:29") == "2026-06-10 15:30"
        assert end_of(day, "2026-06-10 15:30") is None

    def test_across_midnight_it_ends_on_the_next_day(self) -> None:
        assert end_of(NIGHT, "2026-06-10 19:59") is None
        assert end_of(NIGHT, "2026-06-10 20:00") == "2026-06-11 04:00"
        assert end_of(NIGHT, "2026-06-11 03:59") == "2026-06-11 04:00"
        assert end_of(NIGHT, "2026-06-11 04:00") is None

    def test_the_night_in_which_the_clocks_go_forward_is_an_hour_shorter(self) -> None:
        assert end_of(NIGHT, "2026-03-28 21:30") == "2026-03-29 04:00"
        assert end_of(NIGHT, "2026-03-29 03:59") == "2026-03-29 04:00"
        assert end_of(NIGHT, "2026-03-28 20:59") is None

    def test_the_night_in_which_the_clocks_go_back_is_an_hour_longer(self) -> None:
        assert end_of(NIGHT, "2026-10-24 20:00") == "2026-10-25 05:00"
        assert end_of(NIGHT, "2026-10-25 04:59") == "2026-10-25 05:00"

    def test_an_end_that_the_clocks_show_twice_counts_the_second_time(self) -> None:
        until_half_past_two = {"from": "22:00", "to": "02:30"}

        assert end_of(until_half_past_two, "2026-10-25 00:45") == "2026-10-25 01:30"
        assert end_of(until_half_past_two, "2026-10-25 01:30") is None

    def test_a_start_that_the_clocks_show_twice_counts_the_first_time(self) -> None:
        from_half_past_two = {"from": "02:30", "to": "05:00"}

        assert end_of(from_half_past_two, "2026-10-25 00:29") is None
        assert end_of(from_half_past_two, "2026-10-25 01:10") == "2026-10-25 04:00"

    def test_an_end_that_the_clocks_skip_comes_as_long_after_midnight(self) -> None:
        assert end_of({"from": "22:00", "to": "02:30"}, "2026-03-29 00:45") == "2026-03-29 01:30"

    @pytest.mark.parametrize(
        "value",
        [
            "22:00-06:00",
            {"from": "22:00"},
            {**NIGHT, "till": "x"},
            {"from": "22", "to": "06:00"},
            {"from": "6:00", "to": "06:00"},
            {"from": 22, "to": None},
            {**NIGHT, "zone": 5},
        ],
    )
    def test_what_describes_no_window_is_refused(self, shop: World, value: Any) -> None:
        with refuses(Refused, field="quiet_hours"):
            set_hours(shop, value)

        assert shop.claim("a") == ["a"]

    def test_a_zone_that_there_is_not_is_refused(self, shop: World) -> None:
        with refuses(Refused):
            set_hours(shop, {**NIGHT, "zone": "Berlin/Europe"})


class TestATask:
    def test_that_is_ready_waits_for_the_end_of_the_quiet_hours(self, shop: World) -> None:
        set_hours(shop, around_now("Asia/Kolkata"))

        assert shop.claim("a", "b") == []

        task = shop.task("a")
        assert (task.state, task.reasons) == ("blocked", BlockReason.POLICY)
        assert task.not_before is not None
        assert timedelta(hours=1, minutes=58) < task.not_before - utc_now() <= timedelta(hours=2)

    def test_outside_of_them_starts(self, shop: World) -> None:
        set_hours(shop, around_now(shift=timedelta(hours=5)))

        assert shop.claim("a", "b") == ["a", "b"]

    def test_in_a_project_without_them_is_claimed_by_as_many_statements_as_ever(self, shop: World) -> None:
        with watched(shop.store) as seen:
            assert shop.claim("a") == ["a"]

        assert len(seen) == (1 if shop.store.dialect == "postgresql" else 5)

    def test_is_lifted_by_the_tick_when_they_have_ended(self, shop: World) -> None:
        set_hours(shop, around_now())
        shop.claim("a", "b")
        shop.tick()
        assert shop.states() == {"a": "blocked", "b": "blocked"}

        shop.make_due("a")
        shop.tick()

        assert shop.states() == {"a": "queued", "b": "blocked"}

    def test_goes_on_at_once_when_the_setting_goes_away(self, shop: World) -> None:
        set_hours(shop, around_now())
        shop.claim("a", "b")

        assert set_hours(shop, None) == 2

        assert shop.claim("a", "b") == ["a", "b"]

    def test_is_left_alone_by_a_transaction_that_may_not_wait(self, shop: World) -> None:
        set_hours(shop, around_now())

        assert shop.claim("a", wait=False) == []

        assert shop.states(["a"]) == {"a": "queued"}

    def test_says_until_when_it_waits_before_and_after_a_worker_met_it(self, shop: World) -> None:
        set_hours(shop, around_now())
        (before,) = explained(shop, "a").blockers
        shop.claim("a")

        (blocker,) = explained(shop, "a").blockers

        assert before == blocker
        assert blocker.kind == "quiet_hours"
        assert blocker.until == shop.task("a").not_before
        assert blocker.line().endswith("end them with: coord projects change shop --set quiet_hours=null")

    def test_is_no_standstill_but_a_wait_for_a_time(self, shop: World) -> None:
        set_hours(shop, around_now())
        shop.claim("a", "b")

        with shop.store.read() as tx:
            (obstacle,) = find_obstacles(
                tx, shop.workspace, shop.project_id, shop.run_id, live_within=timedelta(minutes=1), needs_worker=False
            )

        assert (obstacle.kind, obstacle.lasts) == ("time", False)
