"""Test a project that restricts its models while its tasks wait: real workers start no task with another model."""

from __future__ import annotations

import json

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import BlockReason, OnDependencyFailure, RunState
from tests.support.fleet import Fleet
from tests.support.processes import until


def agent(model: str | None, says: str = "done") -> AgentCall:
    """Return a custom agent that writes a file and prints one line."""
    script = f"cat >/dev/null; touch began-{says}; echo {json.dumps(says)}"
    return AgentCall("custom", "work", model=model, command=["/bin/sh", "-c", script])


def test_what_is_not_allowed_any_more_waits_until_the_rule_is_changed(fleet: Fleet) -> None:
    gate = Task("gate", {"shell": "while [ ! -e go ]; do sleep 0.05; done; echo large"})
    after = {"needs": ["gate"], "max_attempts": 3}
    run = fleet.submit(
        gate,
        Task("allowed", agent("small-1", "allowed"), **after),
        Task("denied", agent("large-1", "denied"), **after),
        Task("unnamed", agent(None, "unnamed"), **after),
        Task("templated", agent("{{ needs.gate.output }}", "templated"), **after),
        Task("next", {"shell": "true"}, needs=["denied"], on_dependency_failure=OnDependencyFailure.CANCEL),
    )
    fleet.worker("-c", "2")

    fleet.coord("projects", "change", "fleet", "--models", 'allow=["small-*"]')
    fleet.file("go").touch()

    waiting = {"denied", "unnamed", "templated"}
    fleet.await_event(run, EventType.COMPLETED, key="allowed", within=60)
    until(lambda: all(BlockReason.MODEL in run.task(key).record.reasons for key in waiting), what="the tasks held")
    assert {task.key: str(task.state) for task in run.tasks() if task.key in waiting} == dict.fromkeys(
        waiting, "blocked"
    )
    assert run.task("denied").attempts() == []
    (attempt,) = run.task("templated").attempts()
    assert (attempt.outcome, attempt.error) == (
        Outcome.DEFERRED,
        "the project does not allow the model 'large' (allowed: small-*)",
    )
    for key, model in (("denied", "'large-1'"), ("templated", "'large'")):
        why = fleet.coord("explain", key).out
        assert f"the project does not allow the model {model} (allowed: small-*)" in why
        assert "coord projects change fleet --models" in why
    assert "it names no model" in fleet.coord("explain", "unnamed").out
    assert not any(fleet.file(f"began-{key}").exists() for key in waiting)

    fleet.coord("projects", "change", "fleet", "--models", "allow=null")

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert all(fleet.file(f"began-{key}").exists() for key in waiting)
    assert [one.outcome for one in run.task("templated").attempts()] == [Outcome.DEFERRED, Outcome.COMPLETED]


def test_the_command_line_says_what_is_wrong_and_changes_nothing(fleet: Fleet) -> None:
    fleet.submit(Task("a", {"shell": "true"}))
    coord, plan = fleet.coord, fleet.file("plan.yaml")
    plan.write_text(
        "version: 1\ntasks:\n  - {key: fix, run: {agent: claude, prompt: x}}\n"
        "  - {key: big, run: {chat: 'openai:gpt-5', prompt: x}}\n"
    )
    refused = coord("projects", "change", "fleet", "--models", 'allow="claude-*"', code=2)
    assert "allow must be a list of models' names" in refused.err
    assert coord("projects", "show", "fleet", "--json").json["model_restrictions"] == {}

    coord("projects", "change", "fleet", "--models", 'deny=["openai:*"]')
    denied = coord("submit", plan, "-C", str(fleet.folder / "project"), code=2)
    coord("projects", "change", "fleet", "--models", 'allow=["claude-*"]')
    unnamed = coord("simulate", plan, code=2)

    assert "plan.yaml:4: Task 'big': the project does not allow the model 'openai:gpt-5'" in denied.err
    assert "(denied: openai:*)" in denied.err
    assert (
        "plan.yaml:3: Task 'fix': it names no model, and the project allows only some (allowed: claude-*" in unnamed.err
    )
    assert len(coord("runs", "list", "--json").json["runs"]) == 1
