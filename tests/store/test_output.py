"""Test live output in the store: fenced, growing, never going back."""

from __future__ import annotations

import pytest

from coordination.domain.jobs.output import StoredChunk
from coordination.domain.tasks.attempts import Outcome
from coordination.store.queries.jobs import output
from tests.support.world import World


@pytest.fixture
def world(store) -> World:
    new_world = World(store)
    new_world.submit("a", "b")
    new_world.claim("a", "b")
    return new_world


def chunk(slot: int, position: int, text: str) -> StoredChunk:
    return StoredChunk(slot, position, len(text), (("out", text),))


def write(world: World, *chunks: StoredChunk, key: str = "a", attempt: int = 1) -> None:
    with world.store.write() as tx:
        output.write(tx, world.workspace, [(world.ids[key], attempt, chunks)])


def read(world: World, key: str = "a", attempt: int = 1, after: int = 0) -> list[StoredChunk]:
    with world.store.read() as tx:
        return output.of_attempt(tx, world.workspace, world.ids[key], attempt, after=after)


def test_what_several_attempts_printed_is_written_together_and_read_apart(world: World) -> None:
    mine, theirs = chunk(0, 0, "a\x00\ud800ü\n"), chunk(0, 0, "b")

    with world.store.write() as tx:
        output.write(tx, world.workspace, [(world.ids["a"], 1, [mine]), (world.ids["b"], 1, [theirs])])

    assert [one.pieces for one in read(world)] == [(("out", "a��ü\n"),)]
    assert read(world, "b") == [theirs]
    assert read(world, attempt=2) == []


def test_a_chunk_grows_and_never_shrinks(world: World) -> None:
    write(world, chunk(0, 0, "ab"))
    write(world, chunk(0, 0, "abcd"))

    write(world, chunk(0, 0, "abc"))

    assert read(world) == [chunk(0, 0, "abcd")]


def test_a_slot_is_used_again_by_what_came_later_only(world: World) -> None:
    write(world, chunk(0, 0, "abcd"), chunk(1, 4, "ef"))
    write(world, chunk(1, 100, "z"))

    write(world, chunk(1, 6, "gh"))

    assert read(world) == [chunk(0, 0, "abcd"), chunk(1, 100, "z")]
    assert read(world, after=50) == [chunk(1, 100, "z")]


def test_an_attempt_that_somebody_has_ended_writes_nothing(world: World) -> None:
    write(world, chunk(0, 0, "ab"))
    world.finish("a", Outcome.LOST, error="gone")

    write(world, chunk(0, 0, "abcd"))

    assert read(world) == [chunk(0, 0, "ab")]
