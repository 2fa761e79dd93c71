"""Test projects: one for each identity however often it is requested, moved by the table only, found by each name."""

from __future__ import annotations

import pytest

from coordination.base.errors import IllegalMove, NotFound, Refused
from coordination.domain.projects.projects import MOVES, ProjectStatus
from coordination.services.projects import projects
from coordination.store.queries.projects import projects as rows
from tests.support.refusals import refuses
from tests.support.world import World

IDENTITY = "example.org/acme/shop"


def resolve(world: World, identity: str = IDENTITY, name: str = "shop", path: str | None = "/a"):
    with world.store.write() as tx:
        return projects.resolve(tx, world.workspace, identity=identity, name=name, path=path)


def test_an_identity_is_one_project_and_its_path_follows_its_last_use(world: World) -> None:
    first = resolve(world)
    second = resolve(world, name="other name", path="/b")

    with world.store.read() as tx:
        (stored,) = rows.list_projects(tx, world.workspace)
    assert first.id == second.id == stored.id
    assert (stored.name, stored.path, stored.status) == ("shop", "/b", ProjectStatus.PLANNING)


@pytest.mark.parametrize("source", ProjectStatus)
@pytest.mark.parametrize("target", ProjectStatus)
def test_a_project_moves_as_the_table_says(world: World, source: ProjectStatus, target: ProjectStatus) -> None:
    project = resolve(world)
    world.sql("UPDATE projects SET status = :source", source=source.value)

    def move() -> None:
        with world.store.write() as tx:
            projects.set_status(tx, world.workspace, project.id, target)

    if source in MOVES[target] or source is target:
        move()
    else:
        with refuses(IllegalMove):
            move()

    with world.store.read() as tx:
        project_row = rows.get(tx, world.workspace, project.id)
    assert project_row.status is (target if source in MOVES[target] else source)


def test_a_project_is_found_by_each_of_its_names(world: World) -> None:
    project = resolve(world)
    with world.store.write() as tx:
        projects.rename_remote(tx, world.workspace, project, "example.org/new/shop")

    with world.store.read() as tx:
        for name in ("shop", IDENTITY, "example.org/new/shop", project.id):
            assert projects.find(tx, world.workspace, name).id == project.id
        with refuses(NotFound):
            projects.find(tx, world.workspace, "shoe")


def test_a_name_that_fits_two_is_refused(world: World) -> None:
    resolve(world)
    resolve(world, identity="example.org/else/shop")

    with world.store.read() as tx, refuses(Refused):
        projects.find(tx, world.workspace, "shop")


def test_the_identity_of_another_project_cannot_become_an_alias(world: World) -> None:
    project = resolve(world)
    resolve(world, identity="example.org/else/shop", name="else")

    with world.store.write() as tx, refuses(Refused):
        projects.rename_remote(tx, world.workspace, project, "example.org/else/shop")
