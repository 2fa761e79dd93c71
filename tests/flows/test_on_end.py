"""Test that listeners are called for ended attempts in the transaction that ends them."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from coordination.base.errors import Refused
from coordination.flows.attempts import finish
from coordination.services.attempts.end import EndEffects
from tests.support.world import World


def test_a_listener_hears_of_all_ends_and_which_of_them_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit("a", "b", "c < a")
    world.claim("a", "b")
    world.cancel("b")
    seen: list[EndEffects] = []
    monkeypatch.setattr(
        finish, "LISTENERS", (*finish.LISTENERS, lambda _tx, _ws, _project, effects: seen.append(effects))
    )

    world.write(world.decide("a"), world.decide("b"))

    (effects,) = seen
    assert [ended.key for ended in effects.ends] == ["a", "b"]
    assert [ended.key for ended in effects.effective_ends()] == ["a"]
    assert effects.freed == [world.ids["c"]]


def test_a_listener_that_refuses_undoes_the_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit("a")
    world.claim("a")

    def refuse(_tx: Connection, _workspace_id: str, _project_id: str, _effects: EndEffects) -> None:
        raise Refused("not today")

    monkeypatch.setattr(finish, "LISTENERS", (refuse,))

    with pytest.raises(Refused):
        world.finish("a")

    assert world.states() == {"a": "running"}
    assert "completed" not in world.story("a")
