"""What a worker knows of the models that a project allows: fresh enough, and nothing is begun in doubt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coordination.base.errors import Refused
from coordination.domain.access.authority import Rights
from coordination.domain.jobs.work import ChatCall, Shell
from coordination.domain.tasks.attempts import Claim, Outcome
from coordination.store.engine import Store, open_store
from tests.support.jobs import claim_of
from tests.support.refusals import refuses
from tests.support.world import World, watched
from workers.attempt.model_policy import ModelRules, check_authority


@pytest.fixture
def claim(store: Store) -> Claim:
    world = World(store)
    world.submit("a")
    world.claim("a")
    return replace(world.claims["a"], work=ChatCall("openai:gpt-5", "Hello").to_json())


def say(store: Store, claim: Claim, text: str) -> None:
    from sqlalchemy import text as sql

    with store.write() as tx:
        tx.execute(
            sql("UPDATE projects SET model_restrictions = :said WHERE id = :id"), {"said": text, "id": claim.project_id}
        )


def test_a_model_that_is_denied_is_not_begun_nor_tried_again(store: Store, claim: Claim) -> None:
    say(store, claim, '{"deny": ["openai:*"]}')

    ended = ModelRules(store).ended(claim)

    assert ended is not None
    assert (ended.outcome, ended.retryable, ended.began) == (Outcome.FAILED, False, False)
    assert ended.error == "the project does not allow the model 'openai:gpt-5' (denied: openai:*)"


def test_what_is_allowed_or_has_no_model_begins(store: Store, claim: Claim) -> None:
    assert ModelRules(store).ended(claim) is None
    say(store, claim, '{"allow": ["claude-*"]}')

    with watched(store) as seen:
        assert ModelRules(store).ended(replace(claim, work=Shell("ls").to_json())) is None

    assert not seen, "a command pays nothing"


def test_it_is_asked_once_a_second(store: Store, claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, now = ModelRules(store), 100.0
    monkeypatch.setattr("workers.attempt.model_policy.monotonic", lambda: now)
    assert rules.ended(claim) is None
    say(store, claim, '{"deny": ["*"]}')

    with watched(store) as seen:
        assert rules.ended(claim) is None
    now = 101.5

    assert not seen
    assert rules.ended(claim) is not None


def test_what_was_denied_a_moment_ago_is_asked_again(store: Store, claim: Claim) -> None:
    rules = ModelRules(store)
    say(store, claim, '{"deny": ["openai:*"]}')
    assert rules.ended(claim) is not None

    say(store, claim, "{}")

    assert rules.ended(claim) is None


def test_rules_that_nobody_understands_let_nothing_begin(store: Store, claim: Claim) -> None:
    say(store, claim, '{"only": 5}')

    ended = ModelRules(store).ended(claim)

    assert ended is not None
    assert (ended.outcome, ended.retryable) == (Outcome.FAILED, False)
    assert "cannot be understood: Restrictions of models have no 'only'" in (ended.error or "")


def test_without_the_database_it_waits_and_is_charged_nothing(store: Store, claim: Claim, tmp_path: Path) -> None:
    gone = open_store(f"sqlite:///{tmp_path}/nowhere/coord.db")

    ended = ModelRules(gone).ended(claim)

    assert ended is not None
    assert (ended.outcome, ended.began) == (Outcome.DEFERRED, False)
    gone.close()


def test_a_reported_task_with_more_attempts_than_its_reporter_is_refused_at_the_claim() -> None:
    lent = Rights({"shell": ""}, ("/srv",), max_attempts=2, priority=0, agent="dave/vc").to_json()

    check_authority(claim_of({"shell": "true"}, workdir="/srv", max_attempts=2, authority=lent, timeout=None))
    with refuses(Refused, field="max_attempts"):
        check_authority(claim_of({"shell": "true"}, workdir="/srv", max_attempts=3, authority=lent, timeout=None))
