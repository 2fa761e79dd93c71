"""Tasks that ran on the heels of what they needed: written with it, all or nothing, as if they had been claimed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordination.domain.attempts import Claim, Outcome, Usage
from coordination.domain.events import EventType
from coordination.flows.claim_tasks import claim_tasks
from coordination.flows.finish_attempts import Finish, Finished, finish_attempts
from coordination.flows.record_stale import record_stale
from coordination.store.queries import events, lookahead
from coordination.store.queries.completions import LostGround, Ran
from tests.support.world import LEASE, WINDOW, World


def followers(world: World, *keys: str, most: int = 128) -> dict[str, lookahead.Ahead]:
    """What the tasks lead to, by key."""
    with world.store.read() as tx:
        found = lookahead.ahead_of(tx, world.workspace, [world.ids[key] for key in keys], most=most)
    return {one.claim({}).key: one for one in found}


def ran(world: World, ahead: lookahead.Ahead, outcome: Outcome = Outcome.COMPLETED, **fields: object) -> Finish:
    """A task that ran ahead, ready to be written."""
    finish = world.decide(ahead.claim({}), outcome, **fields)
    return replace(finish, ahead=Ran(0.5, len(ahead.parents), world.worker))


def write(world: World, *finishes: Finish) -> Finished:
    """Write ends in one transaction, as a worker does."""

    def claim(ids: object) -> list[Claim]:
        return claim_tasks(tx, world.workspace, list(ids), worker_id=world.worker, lease=LEASE)  # type: ignore[call-overload]

    with world.store.write() as tx:
        return finish_attempts(
            tx,
            world.workspace,
            world.project_id,
            finishes,
            worker_id=world.worker,
            window=WINDOW,
            bundle=lambda _kind: 1,
            claim=claim,
        )


def told(world: World) -> list[tuple[str | None, EventType]]:
    """The run's story: key and type of each event."""
    with world.store.read() as tx:
        return [(event.key, event.type) for event in events.tail(tx, world.workspace, run_id=world.run_id)]


def test_what_waits_for_more_than_is_looked_at_is_no_way_on(world: World) -> None:
    world.submit("a", "b", "c", "d", "all < a b c d", "last < all")
    world.claim("a")

    assert set(followers(world, "a")) == {"all", "last"}
    assert followers(world, "a", most=2) == {}


@pytest.fixture
def chain(world: World) -> World:
    """a -> b -> c -> d, a claimed."""
    world.submit("a", "b < a", "c < b", "d < c")
    assert world.claim("a") == ["a"]
    return world


def test_what_follows_is_found_with_what_it_needs(chain: World) -> None:
    found = followers(chain, "a")

    assert {key: [name for name in "abcd" if chain.ids[name] in one.parents] for key, one in found.items()} == {
        "b": ["a"],
        "c": ["b"],
        "d": ["c"],
    }
    assert {one.claim({}).attempt for one in found.values()} == {1}
    assert len(followers(chain, "a", most=2)) == 2


def test_a_chain_written_at_once_reads_like_one_that_was_claimed_task_by_task(chain: World) -> None:
    found = followers(chain, "a")

    finished = write(chain, chain.decide("a"), ran(chain, found["b"], output={"n": 2}), ran(chain, found["c"]))

    assert chain.states("abcd") == {"a": "completed", "b": "completed", "c": "completed", "d": "queued"}
    assert [one.ready.key for one in finished.ended.released] == ["d"]
    (attempt,) = chain.attempts("b")
    assert (attempt.number, attempt.outcome, attempt.output) == (1, Outcome.COMPLETED, {"n": 2})
    assert attempt.finished_at is not None
    assert (attempt.finished_at - attempt.started_at).total_seconds() == pytest.approx(0.5, abs=0.01)
    story = [line for line in told(chain) if line[0] in ("b", "c", "d")]
    assert story[-7:] == [
        ("b", EventType.UNBLOCKED),
        ("b", EventType.CLAIMED),
        ("b", EventType.COMPLETED),
        ("c", EventType.UNBLOCKED),
        ("c", EventType.CLAIMED),
        ("c", EventType.COMPLETED),
        ("d", EventType.UNBLOCKED),
    ]
    chain.do("d")
    assert chain.task("c").pending == 0


def test_what_was_canceled_meanwhile_takes_everything_that_ran_ahead_with_it(chain: World) -> None:
    found = followers(chain, "a")
    chain.cancel("c")
    before = chain.states("abcd")

    with pytest.raises(LostGround):
        write(chain, chain.decide("a"), ran(chain, found["b"]), ran(chain, found["c"]))

    assert chain.states("abcd") == before
    assert chain.attempts("b") == []


def test_nothing_that_ran_ahead_counts_when_the_fence_under_it_is_gone(chain: World) -> None:
    found = followers(chain, "a")
    chain.expire("a")
    chain.tick()

    with pytest.raises(LostGround):
        write(chain, chain.decide("a"), ran(chain, found["b"]))

    assert chain.states("ab") == {"a": "queued", "b": "blocked"}


def test_nothing_that_ran_ahead_counts_when_it_needed_more_than_what_completes_with_it(world: World) -> None:
    world.submit("a", "x", "c < a x")
    world.claim("a")
    found = followers(world, "a")

    with pytest.raises(LostGround):
        write(world, world.decide("a"), replace(ran(world, found["c"]), ahead=Ran(0.1, 1, world.worker)))

    assert world.states("axc") == {"a": "running", "x": "queued", "c": "blocked"}


def test_writing_it_twice_changes_nothing(chain: World) -> None:
    found = followers(chain, "a")
    ends = [chain.decide("a"), ran(chain, found["b"])]
    write(chain, *ends)
    before = told(chain)

    with pytest.raises(LostGround):
        write(chain, *ends)

    assert told(chain) == before


def test_one_that_ran_ahead_and_failed_has_an_attempt_that_failed(chain: World) -> None:
    found = followers(chain, "a")

    write(chain, chain.decide("a"), ran(chain, found["b"], Outcome.FAILED, error="no", retryable=False))

    assert chain.states("abcd") == {"a": "completed", "b": "failed", "c": "canceled", "d": "canceled"}
    assert chain.outcomes("b") == ["failed"]
    assert chain.task("b").failures == 1


def test_what_one_spent_that_does_not_count_is_recorded_and_marked(chain: World) -> None:
    found = followers(chain, "a")
    end = ran(chain, found["b"], usage=(Usage("m", input_tokens=5, id="u1"),))

    with chain.store.write() as tx:
        record_stale(tx, chain.workspace, end.costs)

    assert [tuple(row) for row in chain.sql("SELECT id, stale FROM costs")] == [("u1", True)]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tasks": {"b": {"repeatable": False}}}, "a job that must not be repeated"),
        ({"tasks": {"b": {"concurrency_key": "deploy"}}}, "a project with limits"),
    ],
)
def test_what_must_be_claimed_before_it_runs_is_not_found(world: World, settings: dict[str, object], why: str) -> None:
    world.submit("a", "b < a", **settings)
    world.claim("a")

    assert followers(world, "a") == {}, why


def test_other_kinds_of_edges_hold_nothing(world: World) -> None:
    from coordination.domain.plans import Dependency
    from coordination.domain.tasks import DependencyKind

    related = Dependency("a", DependencyKind.RELATED)
    world.submit("a", "z", "b < a", tasks={"b": {"needs": [Dependency("z"), related]}})
    world.claim("a")

    assert followers(world, "a") == {}
