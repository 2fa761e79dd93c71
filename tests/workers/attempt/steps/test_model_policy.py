"""Test that a template's model is checked before its job begins, and that no other job costs a query of the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordination.domain.jobs import ChatCall, Shell
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.store.engine import Store, open_store
from tests.support.world import World, watched
from workers.attempt.steps.model_policy import check_rendered_model, requeue_if_allowed

WHY = "the project does not allow the model 'openai:gpt-5' (denied: openai:*)"


@pytest.fixture
def world(store: Store) -> World:
    result = World(store)
    result.submit(
        "a", tasks={"a": {"run": {"chat": "openai:{{ input.model }}", "prompt": "x"}, "input": {"model": "m"}}}
    )
    result.claim("a")
    return result


@pytest.fixture
def rendered(world: World) -> Claim:
    return replace(world.claims["a"], work=ChatCall("openai:gpt-5", "Hello").to_json())


def say(world: World, text: str) -> None:
    world.sql("UPDATE projects SET model_restrictions = :said", said=text)


def test_a_rendered_model_that_is_denied_is_not_begun_and_waits(world: World, rendered: Claim) -> None:
    say(world, '{"deny": ["openai:*"]}')

    end = check_rendered_model(world.store, world.claims["a"], rendered)

    assert end == AttemptEnd(Outcome.DEFERRED, error=WHY, job_started=False, forbidden_work=rendered.work)


def test_a_rendered_model_that_is_allowed_begins(world: World, rendered: Claim) -> None:
    say(world, '{"allow": ["openai:gpt-5"]}')

    assert check_rendered_model(world.store, world.claims["a"], rendered) is None


@pytest.mark.parametrize("work", [Shell("ls {{ input.x }}"), ChatCall("openai:gpt-5", "{{ input.x }}")])
def test_a_job_whose_model_stands_in_its_plan_pays_nothing(world: World, work: Shell | ChatCall) -> None:
    claim = replace(world.claims["a"], work=work.to_json())

    with watched(world.store) as seen:
        assert check_rendered_model(world.store, claim, claim) is None

    assert not seen


def test_without_the_database_it_is_put_off_and_charged_nothing(world: World, rendered: Claim, tmp_path: Path) -> None:
    gone = open_store(f"sqlite:///{tmp_path}/nowhere/coord.db")

    end = check_rendered_model(gone, world.claims["a"], rendered)

    assert end is not None
    assert (end.outcome, end.job_started, end.forbidden_work) == (Outcome.DEFERRED, False, None)
    gone.close()


def test_a_rule_that_changed_before_the_end_was_written_lets_the_task_go_on(world: World, rendered: Claim) -> None:
    say(world, '{"deny": ["openai:*"]}')
    end = check_rendered_model(world.store, world.claims["a"], rendered)
    assert end is not None
    say(world, "{}")
    world.finish("a", end.outcome, error=end.error, job_started=False, forbidden_work=end.forbidden_work)
    assert world.states() == {"a": "blocked"}

    assert requeue_if_allowed(world.store, rendered, end, actor="worker")

    assert world.states() == {"a": "queued"}


def test_a_rule_that_still_forbids_the_model_keeps_the_task_waiting(world: World, rendered: Claim) -> None:
    say(world, '{"deny": ["openai:*"]}')
    end = check_rendered_model(world.store, world.claims["a"], rendered)
    assert end is not None
    world.finish("a", end.outcome, error=end.error, job_started=False, forbidden_work=end.forbidden_work)

    assert not requeue_if_allowed(world.store, rendered, end, actor="worker")
    assert not requeue_if_allowed(world.store, rendered, AttemptEnd(Outcome.COMPLETED), actor="worker")

    assert world.states() == {"a": "blocked"}
