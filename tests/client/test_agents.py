"""Agents by the Python API, on both databases: made, changed, told with what came of them, moved as JSON, refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordination import Plan, Profile, ProjectRef, Task, connect
from coordination.base.errors import NotFound, Refused
from coordination.client import Coordination
from coordination.settings import load_settings
from tests.support.refusals import refuses

MENDER = Profile("dave/vc", runner={"agent": "claude"}, model="m", identity={"role": "mender"}, default=True)


@pytest.fixture
def co(store_url: str, tmp_path: Path) -> Iterator[Coordination]:
    settings = load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})
    with connect(settings, migrate=True) as made:
        yield made


def names(co: Coordination) -> list[str]:
    return [agent.profile.name for agent in co.agents.list()]


def test_an_agent_is_made_changed_cloned_and_forgotten(co: Coordination) -> None:
    co.agents.create(MENDER)
    changed = co.agents.change("dave/vc", model=None, labels=["python"], objective="Keep it green")
    co.agents.change("dave/vc", name="dave/shop")
    cloned = co.agents.clone("dave/shop", "ann")

    assert (changed.profile.model, list(changed.profile.labels), changed.profile.runner) == (
        None,
        ["python"],
        {"agent": "claude"},
    )
    assert cloned.profile.objective == "Keep it green"
    assert not cloned.profile.default
    assert names(co) == ["ann", "dave/shop"]
    assert co.agents.get("dave/shop").profile.default
    co.agents.delete("ann")
    assert names(co) == ["dave/shop"]


def test_what_it_came_to_is_counted_from_its_tasks(co: Coordination, tmp_path: Path) -> None:
    co.agents.create(MENDER)

    co.submit(
        Plan([Task("a", {"agent": "default", "prompt": "x"})], project=ProjectRef(name="shop", path=str(tmp_path)))
    )

    assert co.agents.record("dave/vc").open == 1
    with refuses(Refused):
        co.agents.delete("dave/vc")
    assert names(co) == ["dave/vc"]


def test_what_was_exported_is_imported_all_of_it_or_nothing(co: Coordination) -> None:
    co.agents.create(MENDER)
    co.agents.clone("dave/vc", "ann")
    document = co.agents.export()
    co.agents.delete("ann")
    co.agents.change("dave/vc", model="other")

    imported = co.agents.import_(document)

    assert [agent.profile.name for agent in imported] == ["ann", "dave/vc"]
    assert co.agents.export() == document
    assert co.agents.export("ann")["agents"] == document["agents"][:1]
    broken = {**document, "agents": [{"name": "new"}, {"name": "no name"}]}
    with refuses(Refused, field="name"):
        co.agents.import_(broken)
    assert co.agents.export() == document


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], None),
        ({"version": 2, "agents": []}, None),
        ({"version": 1, "agents": "x"}, None),
        ({"version": 1, "agents": [{"name": "a"}, {"name": "a", "model": "b"}]}, None),
    ],
)
def test_a_document_that_is_none_is_refused_in_one_sentence(co: Coordination, document: Any, field: str | None) -> None:
    with refuses(Refused, field=field):
        co.agents.import_(document)

    assert names(co) == []


def test_what_an_agent_cannot_be_is_refused_with_nothing_changed(co: Coordination) -> None:
    co.agents.create(MENDER)

    for act, error in (
        (lambda: co.agents.create(MENDER), Refused),
        (lambda: co.agents.create(Profile("two words")), Refused),
        (lambda: co.agents.change("dave/vc", runner={"agent": "nobody"}), Refused),
        (lambda: co.agents.change("dave/vc", colour="red"), Refused),
        (lambda: co.agents.change("dave/v", model="x"), NotFound),
        (lambda: co.agents.get("dave/v"), NotFound),
        (lambda: co.agents.export("dave/v"), NotFound),
    ):
        with pytest.raises(error):
            act()

    assert co.agents.get("dave/vc").profile == MENDER
