"""Test ports of a machine: lent to open attempts of all workspaces, each to one of them, until that has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from coordination.base.errors import Refused, Unavailable
from coordination.domain.tasks.attempts import Outcome
from coordination.services.fleet.host_leases import lease_ports
from coordination.store.queries.fleet import host_leases
from coordination.store.queries.fleet.host_leases import LeaseKind
from tests.support.refusals import refuses
from tests.support.world import World


def lend(
    world: World, key: str, count: int = 1, *, host: str = "here", ports: range = range(20_000, 20_004)
) -> list[int]:
    def work(tx) -> list[int]:
        return lease_ports(
            tx,
            world.workspace,
            world.ids[key],
            1,
            host=host,
            count=count,
            ports=ports,
            is_free=lambda port: port != 20_001,
        )

    return world.store.transact(work)


def has(world: World, key: str) -> list[str]:
    with world.store.read() as tx:
        return [lease.name for lease in host_leases.of_attempt(tx, world.workspace, world.ids[key], 1)]


@pytest.fixture
def running(world: World) -> World:
    world.submit("a", "b", "c", "d")
    world.claim("a", "b", "c", "d")
    return world


class TestPorts:
    def test_no_two_open_attempts_have_one_and_none_is_lent_that_is_in_use(self, running: World) -> None:
        assert (lend(running, "a", 2), lend(running, "b")) == ([20_000, 20_002], [20_003])
        assert (has(running, "a"), has(running, "b")) == (["20000", "20002"], ["20003"])

    def test_other_workspaces_of_the_machine_get_others_and_other_machines_any(self, running: World) -> None:
        other = World(running.store, "other")
        other.submit("x")
        other.claim("x")

        assert (lend(running, "a"), lend(other, "x"), lend(running, "b", host="there")) == (
            [20_000],
            [20_002],
            [20_000],
        )

    @pytest.mark.parametrize("way", ["completed", "failed", "lost", "forgotten"])
    def test_they_are_free_again_however_the_attempt_ends(self, running: World, way: str) -> None:
        lend(running, "a", 3)
        ends: dict[str, Callable[[], object]] = {
            "completed": lambda: running.finish("a"),
            "failed": lambda: running.finish("a", outcome=Outcome.FAILED),
            "lost": lambda: (running.expire("a"), running.tick()),
            "forgotten": lambda: running.sql("DELETE FROM attempts"),
        }

        ends[way]()

        assert has(running, "a") == []
        assert lend(running, "b", 3) == [20_000, 20_002, 20_003]

    def test_too_few_are_left_for_now_or_for_ever_is_said_and_nothing_is_lent(self, running: World) -> None:
        lend(running, "a", 2)

        with refuses(Unavailable):
            lend(running, "b", 2)
        with refuses(Refused):
            lend(running, "c", 5)

        assert has(running, "b") == []
        assert lend(running, "d") == [20_003]

    def test_workers_that_ask_at_the_same_time_get_different_ones(self, running: World) -> None:
        got: list[list[int]] = []
        threads = [
            threading.Thread(target=lambda key=key: got.append(lend(running, key, 5, ports=range(21_000, 21_020))))
            for key in running.ids
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(port for ports in got for port in ports) == list(range(21_000, 21_020))


class TestDatabases:
    def test_those_of_ended_attempts_are_found_until_they_are_forgotten(self, running: World) -> None:
        lent = {"host": "here", "kind": LeaseKind.DATABASE}
        with running.store.write() as tx:
            for key in ("a", "b"):
                host_leases.add(tx, running.workspace, running.ids[key], 1, name=key, origin="$URL", **lent)
        running.finish("a")

        with running.store.write() as tx:
            (result,) = host_leases.list_ended(tx, "here", LeaseKind.DATABASE)
            assert (result.name, result.origin) == ("a", "$URL")
            assert host_leases.list_ended(tx, "there", LeaseKind.DATABASE) == []
            host_leases.delete_named(tx, "here", LeaseKind.DATABASE, ["a"])
            assert host_leases.names_on(tx, "here", LeaseKind.DATABASE) == {"b"}
