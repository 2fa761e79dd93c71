"""Test tokens of attempts: each is checked against its attempt's row, on each kind of database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete

from coordination.base.errors import TokenRefused
from coordination.base.ids import new_id
from coordination.domain.access.attempt_tokens import AttemptClaims, Scope, derive_key, issue
from coordination.domain.tasks.attempts import Outcome
from coordination.services.access.attempt_tokens import AttemptRef, check_token
from coordination.services.fleet import broker_keys
from coordination.store.queries.fleet import workers
from coordination.store.tables.fleet.broker_keys import broker_keys as key_table
from tests.support.refusals import refuses
from tests.support.world import World


def claims_of(world: World, key: str, **changes: Any) -> AttemptClaims:
    claim = world.claims[key]
    text = {
        "workspace_id": claim.workspace_id,
        "project_id": claim.project_id,
        "task_id": claim.task_id,
        "attempt": claim.attempt,
        "agent": claim.agent_id,
    }
    return AttemptClaims(**(text | changes))


def token_for(world: World, key: str, **changes: Any) -> str:
    return issue(derive_key(world.store.transact(workers.get_or_create_broker_key)), claims_of(world, key, **changes))


def check(world: World, token: str, *, scope: Scope = Scope.REPORT) -> AttemptRef:
    with world.store.read() as tx:
        return check_token(tx, token, workspace_id=world.workspace, scope=scope)


def refused(world: World, token: str, *, scope: Scope = Scope.REPORT) -> str:
    with pytest.raises(TokenRefused) as error:
        check(world, token, scope=scope)
    return error.value.message


def test_a_token_names_its_attempt_while_that_runs(world: World) -> None:
    world.submit("a", tasks={"a": {"agent": "bob"}})
    world.claim("a")
    claim = world.claims["a"]

    token = check(world, token_for(world, "a"), scope=Scope.DISCOVER)

    assert (token.run_id, token.task_id, token.attempt) == (world.run_id, claim.task_id, 1)
    assert (token.workspace_id, token.project_id, token.agent) == (world.workspace, world.project_id, "bob")


@pytest.mark.parametrize("key", [b"", b"k" * 32])
def test_a_forged_token_is_refused(world: World, key: bytes) -> None:
    world.submit("a")
    world.claim("a")
    token_for(world, "a")

    assert "not signed" in refused(world, issue(derive_key(key), claims_of(world, "a")))


def test_where_nobody_has_made_a_key_nothing_is_accepted_and_none_is_made(world: World) -> None:
    world.submit("a")
    world.claim("a")
    broker_keys.rotate(world.store)
    token = token_for(world, "a")

    with world.store.write() as tx:
        tx.execute(delete(key_table))

    assert "not signed" in refused(world, token)
    with world.store.read() as tx:
        assert workers.find_broker_key(tx) is None


def test_a_token_of_an_attempt_that_ended_is_refused(world: World) -> None:
    world.submit("a")
    world.claim("a")
    token = token_for(world, "a")
    world.finish("a")

    assert "has ended" in refused(world, token)


def test_a_token_of_the_attempt_before_is_refused_when_the_task_runs_again(world: World) -> None:
    world.submit("a", tasks={"a": {"max_attempts": 3}})
    world.claim("a")
    former = token_for(world, "a")
    world.finish("a", Outcome.FAILED, error="no")
    world.make_due("a")
    world.claim("a")

    assert world.claims["a"].attempt == 2
    assert "has ended" in refused(world, former)
    assert check(world, token_for(world, "a")).attempt == 2


@pytest.mark.parametrize(
    "changes",
    [{"attempt": 2}, {"task_id": new_id()}, {"project_id": new_id()}, {"agent": "mallory"}],
    ids=["not begun", "another task", "another project", "another agent"],
)
def test_signed_claims_that_no_row_has_are_refused(world: World, changes: dict[str, Any]) -> None:
    world.submit("a")
    world.claim("a")

    refused(world, token_for(world, "a", **changes))


def test_a_token_opens_no_door_of_another_workspace(world: World) -> None:
    other = World(world.store, "other")
    other.submit("a")
    other.claim("a")
    theirs = token_for(other, "a")

    assert "another workspace" in refused(world, theirs)
    # With our workspace's name in it, there is no such attempt here.
    assert "has ended" in refused(world, token_for(other, "a", workspace_id=world.workspace))
    assert check(other, theirs).task_id == other.ids["a"]


@pytest.mark.parametrize("token", ["", "rubbish", "x" * 2**20, "coord1.e30." + "0" * 64])
def test_garbage_is_refused_in_a_sentence(world: World, token: str) -> None:
    world.submit("a")
    world.claim("a")
    token_for(world, "a")

    assert len(refused(world, token)) < 120


def test_a_token_without_the_scope_is_refused(world: World) -> None:
    world.submit("a")
    world.claim("a")
    token = token_for(world, "a", scopes=frozenset({Scope.REPORT}))

    assert check(world, token)
    with refuses(TokenRefused, field=None):
        check(world, token, scope=Scope.DISCOVER)


def test_a_new_key_refuses_the_tokens_of_attempts_that_run(world: World) -> None:
    world.submit("a")
    world.claim("a")
    former = token_for(world, "a")

    broker_keys.rotate(world.store)

    assert "current key" in refused(world, former)
    assert check(world, token_for(world, "a"))
