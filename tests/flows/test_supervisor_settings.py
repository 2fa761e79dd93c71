"""Test a project's supervisor settings: the model of the agents that review tasks; strategy and model are checked."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.plans.plans import Supervision
from coordination.services.projects import projects
from coordination.store.reports.agents.prompt_context import dependency_graph, specializations
from tests.support.refusals import refuses
from tests.support.world import World

RUN = {"agent": "claude", "prompt": "Mend it"}


def change(world: World, supervisor: Any) -> None:
    """Change the project's supervisor settings as a person does."""
    with world.store.write() as tx:
        project = projects.find(tx, world.workspace, "shop")
        projects.amend(tx, world.workspace, project, merged={"settings": {"supervisor": supervisor}})


def test_agents_that_look_at_tasks_use_the_supervisors_model_unless_they_name_one(world: World) -> None:
    world.submit("first")
    change(world, {"model": "claude-haiku-4-5", "strategy": "Small steps first"})

    looks = Supervision(assess={"agent": "claude"}, analyze={"agent": "claude", "model": "claude-opus-4-1"})
    world.submit("a", tasks={"a": {"run": RUN}}, supervision=looks)

    assert world.task("a/assess").work["model"] == "claude-haiku-4-5"
    assert world.task("a").work["model"] == "claude-opus-4-1"


@pytest.mark.parametrize("wrong", ["fast", {"speed": "fast"}, {"model": 5}, {"strategy": " "}])
def test_settings_of_a_supervisor_that_could_not_be_used_are_refused(world: World, wrong: Any) -> None:
    world.submit("a")

    with refuses(Refused, field="supervisor" if isinstance(wrong, str) else f"supervisor.{min(wrong)}"):
        change(world, wrong)


def test_prompts_can_name_the_runs_tasks_with_what_they_need(world: World) -> None:
    world.submit("build", "test < build", "ship < test build")

    with world.store.read() as tx:
        graph = dependency_graph(tx, world.workspace, world.run_id)
        agents = specializations(tx, world.workspace)

    assert [(task["key"], task["needs"]) for task in graph] == [
        ("build", []),
        ("test", ["build"]),
        ("ship", ["build", "test"]),
    ]
    assert agents == []
