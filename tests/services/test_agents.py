"""Test agents in a store: unique names, at most one default, even distribution; a workspace sees only its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordination.base.errors import NotFound, PlanError, Refused
from coordination.domain.agents.agents import Agent, Profile
from coordination.domain.plans.plans import Defaults
from coordination.services.agents import agents as service
from coordination.store.queries.agents import agents as rows
from tests.support.refusals import refuses
from tests.support.world import World

CLAUDE = {"agent": "claude"}


def make(world: World, name: str, **more: object) -> Agent:
    profile = Profile(name, **{"runner": CLAUDE, **more})  # type: ignore[arg-type]
    return world.store.transact(lambda tx: service.create(tx, world.workspace, profile))


def names(world: World) -> dict[str, bool]:
    """Return all names, and which of them is the default."""
    with world.store.read() as tx:
        return {agent.profile.name: agent.profile.default for agent in rows.list_all(tx, world.workspace)}


def owner(world: World, key: str) -> str | None:
    return world.task(key).agent


def ask(world: World, *wanted: str, **settings: object) -> None:
    """Submit a run with a task for each of these."""
    tasks = {f"t{number}": {"run": {"agent": who, "prompt": "Mend it"}} for number, who in enumerate(wanted)}
    world.submit(*tasks, tasks=tasks, **settings)


def test_a_name_is_taken_once(world: World) -> None:
    created = make(world, "dave/vc", labels=("python",))

    with refuses(Refused):
        make(world, "dave/vc")

    assert created.profile.labels == ("python",)
    assert names(world) == {"dave/vc": False}


def test_the_last_that_was_made_the_default_is(world: World) -> None:
    make(world, "a", default=True)
    make(world, "b", default=True)
    assert names(world) == {"a": False, "b": True}

    world.store.transact(lambda tx: service.change(tx, world.workspace, "a", lambda of: replace(of, default=True)))

    assert names(world) == {"a": True, "b": False}


def test_a_change_that_does_not_hold_changes_nothing(world: World) -> None:
    make(world, "a")
    make(world, "b")

    for wrong in ({"name": "b"}, {"name": "no name"}, {"runner": {"agent": "nobody"}}):
        with pytest.raises(Refused):
            world.store.transact(
                lambda tx, wrong=wrong: service.change(tx, world.workspace, "a", lambda of: replace(of, **wrong))
            )

    assert names(world) == {"a": False, "b": False}


def test_a_clone_is_another_and_not_the_default(world: World) -> None:
    make(world, "a", default=True, model="m")

    created = world.store.transact(lambda tx: service.clone(tx, world.workspace, "a", "b"))

    assert (created.profile.model, created.profile.default) == ("m", False)


def test_one_with_open_tasks_is_not_forgotten(world: World) -> None:
    make(world, "a")
    ask(world, "a")
    with refuses(Refused):
        world.store.transact(lambda tx: service.delete(tx, world.workspace, "a"))

    world.cancel("t0")
    world.store.transact(lambda tx: service.delete(tx, world.workspace, "a"))

    assert names(world) == {}
    assert owner(world, "t0") == "a"


def test_an_unknown_name_is_answered_with_the_likeliest(world: World) -> None:
    make(world, "dave/vc")

    with world.store.read() as tx, refuses(NotFound):
        service.find(tx, world.workspace, "dave/cv")


def test_work_is_given_by_name_by_role_by_label_and_to_the_default(world: World) -> None:
    make(world, "dave/vc", identity={"role": "mender"}, model="m")
    make(world, "ann", labels=("python",))
    make(world, "bo", default=True)

    ask(world, "dave/vc", "role:mender", "label:python", "default", "claude")

    assert [owner(world, f"t{number}") for number in range(5)] == ["dave/vc", "dave/vc", "ann", "bo", None]
    world.claim("t0")
    claim = world.claims["t0"]
    assert claim.work["agent"] == "claude"
    assert claim.work["model"] == "m"
    assert claim.work["prompt"] == "You are dave/vc.\nYour role: mender\n\nMend it"


def test_work_for_several_goes_to_the_one_with_the_least(world: World) -> None:
    for name in ("a", "b", "c"):
        make(world, name, identity={"role": "mender"})
    make(world, "asleep", identity={"role": "mender"}, active=False)
    ask(world, "a", "a", "b")

    ask(world, *["role:mender"] * 6)

    with world.store.read() as tx:
        result = rows.totals(tx, world.workspace, ["a", "b", "c", "asleep"])
    assert {name: record.open for name, record in result.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_job_of_another_kind_is_only_assigned(world: World) -> None:
    make(world, "bo", default=True, runner={})

    world.submit("a", "b", "c", tasks={"b": {"agent": "default"}, "c": {"agent": "somebody"}}, defaults=Defaults())

    assert [owner(world, key) for key in "abc"] == [None, "bo", "somebody"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ("clod", "tasks.t0.run.agent"),
        ("default", "tasks.t0.run.agent"),
        ("role:mender", "tasks.t0.run.agent"),
        ("label:python", "tasks.t0.run.agent"),
        ("asleep", "tasks.t0.run.agent"),
        ("label-only", "tasks.t0.run.agent"),
    ],
)
def test_who_cannot_do_it_is_refused_with_the_task_and_nothing_is_stored(
    world: World, wanted: str, field: str | None
) -> None:
    make(world, "asleep", active=False, identity={"role": "mender"}, labels=("python",))
    make(world, "label-only", runner={})

    with refuses(PlanError, field=field):
        ask(world, wanted)

    assert world.sql("SELECT count(*) FROM runs") == [(0,)]


def test_what_an_agent_came_to_is_counted(world: World) -> None:
    make(world, "a")
    ask(world, "a", "a", "a")
    world.do("t0")
    world.fail("t1")

    with world.store.read() as tx:
        record = rows.totals(tx, world.workspace, ["a", "nobody"])["a"]

    assert (record.open, record.completed, record.interactions) == (1, 1, 2)
    assert record.last_activity_at is not None


def test_another_workspace_has_its_own(world: World) -> None:
    make(world, "a")
    other = World(world.store, "elsewhere")

    assert names(other) == {}
    with refuses(PlanError, field="tasks.t0.run.agent"):
        ask(other, "a")
    make(other, "a")
