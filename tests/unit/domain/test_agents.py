"""Test agents as people describe them: valid and refused ones, and a job that is given to an agent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.agents.agents import AgentChoice, Profile, check_profile, parse_choice, parse_profile
from coordination.domain.jobs import AgentCall, ChatCall
from tests.support.refusals import refuses

WHOLE = Profile(
    "dave/vc",
    description="mends things",
    type="coder",
    objective="Keep the tests green",
    labels=("python", "fast"),
    runner={"agent": "claude", "args": ["--max-turns", "5"], "env": {"A": "1"}, "secrets": ["MY_KEY"]},
    model="m",
    identity={"role": "mender", "personality": "calm", "behaviour": "asks first"},
    default=True,
)


@pytest.mark.parametrize("profile", [Profile("dave"), WHOLE, Profile("x.y-z_1/Q", active=False)])
def test_what_is_exported_is_imported_again(profile: Profile) -> None:
    again = parse_profile(json.loads(json.dumps(profile.to_json())))

    assert again.to_json() == profile.to_json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b/c"}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a" * 201}, "name"),
        ({"name": "claude"}, "name"),
        ({"name": "default"}, "name"),
        ({"name": "a", "modell": "x"}, "modell"),
        ({"name": "a", "model": 5}, "model"),
        ({"name": "a", "objective": "x" * 20_001}, "objective"),
        ({"name": "a", "labels": "python"}, "labels"),
        ({"name": "a", "labels": [1]}, "labels"),
        ({"name": "a", "identity": []}, "identity"),
        ({"name": "a", "identity": {"mood": "good"}}, "identity.mood"),
        ({"name": "a", "identity": {"role": 5}}, "identity.role"),
        ({"name": "a", "active": "yes"}, "active"),
        ({"name": "a", "active": False, "default": True}, "default"),
        ({"name": "a", "runner": "claude"}, "runner"),
        ({"name": "a", "runner": {"args": []}}, "runner.agent"),
        ({"name": "a", "runner": {"chat": "openai:m", "args": []}}, "runner.args"),
        ({"name": "a", "runner": {"chat": "gpt"}}, "runner.chat"),
        ({"name": "a", "runner": {"chat": "openai:m", "prompt": "x"}}, "runner.prompt"),
        ({"name": "a", "runner": {"agent": "dave/vc"}}, "runner.agent"),
        ({"name": "a", "runner": {"agent": "claude", "prompt": "x"}}, "runner.prompt"),
        ({"name": "a", "runner": {"agent": "custom"}}, "runner.command"),
        ({"name": "a", "runner": {"agent": "claude", "env": {"API_KEY": "sk-12345678"}}}, "runner.env"),
        ({"name": "a", "objective": "do {{ needs.a.output }}"}, None),
        ({"name": "a", "objective": "nul\0"}, None),
    ],
)
def test_what_does_not_hold_is_refused(body: dict[str, Any], field: str | None) -> None:
    with refuses(Refused, field=field):
        parse_profile(body)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("dave/vc", AgentChoice("name", "dave/vc")),
        ("default", AgentChoice("default", "")),
        ("role:code reviewer", AgentChoice("role", "code reviewer")),
        ("label:python", AgentChoice("label", "python")),
        ("other:thing", AgentChoice("name", "other:thing")),
    ],
)
def test_whom_a_plan_may_ask_for(text: str, choice: AgentChoice) -> None:
    assert parse_choice(text) == choice


def test_a_job_becomes_what_its_agent_is_and_what_the_job_says_goes_first() -> None:
    job = AgentCall("dave/vc", "Mend it", args=("--fast",), env={"A": "2", "B": "3"}, secrets=("MY_KEY", "OTHER"))

    call = WHOLE.build_job(job)

    assert (call.agent, call.model, call.args) == ("claude", "m", ("--max-turns", "5", "--fast"))
    assert (call.env, call.secrets) == ({"A": "2", "B": "3"}, ("MY_KEY", "OTHER"))
    assert call.prompt == (
        "You are dave/vc.\nYour role: mender\nYour objective: Keep the tests green\nYour personality: calm\n"
        "How you behave: asks first\n\nMend it"
    )
    assert WHOLE.build_job(AgentCall("dave/vc", "x", model="bigger")).model == "bigger"


def test_an_agent_that_is_chatted_with_is_told_who_it_is_beforehand() -> None:
    runner = {"chat": "openai:gpt", "system": "Be terse", "secrets": ["TEAM_KEY"], "settings": {"max_steps": 3}}
    profile = check_profile(Profile("ann", runner=runner, identity={"role": "reviewer"}))

    call = profile.build_job(AgentCall("ann", "Look at it", secrets=["OTHER"]))

    assert call == ChatCall(
        "openai:gpt",
        "Look at it",
        system="You are ann.\nYour role: reviewer\n\nBe terse",
        settings={"max_steps": 3},
        secrets=("TEAM_KEY", "OTHER"),
    )
    assert replace(profile, model="gpt-2").build_job(AgentCall("ann", "x")).chat == "openai:gpt-2"
    assert profile.build_job(AgentCall("ann", "x", model="gpt-3")).chat == "openai:gpt-3"
    with refuses(Refused, field="args"):
        profile.build_job(AgentCall("ann", "x", args=["--fast"]))


def test_an_agent_of_whom_nothing_is_said_adds_nothing_to_the_prompt() -> None:
    assert Profile("a", runner={"agent": "codex"}).build_job(AgentCall("a", "Mend it")).prompt == "Mend it"


def test_an_agent_without_a_runner_runs_nothing() -> None:
    with refuses(Refused, field="runner"):
        check_profile(Profile("a")).build_job(AgentCall("a", "x"))
