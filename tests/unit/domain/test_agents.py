"""Agents as people describe them: what holds, what is refused, and what becomes of a job that is given to one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from coordination.domain.agents import Choice, Profile, checked, choice_of, profile_of
from coordination.domain.chat import ChatCall
from coordination.domain.work import AgentCall
from coordination.errors import Refused

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
    again = profile_of(json.loads(json.dumps(profile.to_json())))

    assert again.to_json() == profile.to_json()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "needs a name"),
        ({"name": ""}, "cannot be an agent's name"),
        ({"name": "a/b/c"}, "cannot be an agent's name"),
        ({"name": "-a"}, "cannot be an agent's name"),
        ({"name": 5}, "cannot be an agent's name"),
        ({"name": "a" * 201}, "cannot be an agent's name"),
        ({"name": "claude"}, "means something else"),
        ({"name": "default"}, "means something else"),
        ({"name": "a", "modell": "x"}, "no 'modell'"),
        ({"name": "a", "model": 5}, "model must be a text"),
        ({"name": "a", "objective": "x" * 20_001}, "objective must be a text of at most 20,000"),
        ({"name": "a", "labels": "python"}, "labels must be a list"),
        ({"name": "a", "labels": [1]}, "labels must be a list"),
        ({"name": "a", "identity": []}, "identity must be a mapping"),
        ({"name": "a", "identity": {"mood": "good"}}, "identity has no 'mood'"),
        ({"name": "a", "identity": {"role": 5}}, "identity.role must be a text"),
        ({"name": "a", "active": "yes"}, "active must be true or false"),
        ({"name": "a", "active": False, "default": True}, "default agent must be active"),
        ({"name": "a", "runner": "claude"}, "runner must be a mapping"),
        ({"name": "a", "runner": {"args": []}}, "runner.agent is None"),
        ({"name": "a", "runner": {"chat": "openai:m", "args": []}}, "runner has no 'args'"),
        ({"name": "a", "runner": {"chat": "gpt"}}, "'gpt' names no model"),
        ({"name": "a", "runner": {"chat": "openai:m", "prompt": "x"}}, "runner has no 'prompt'"),
        ({"name": "a", "runner": {"agent": "dave/vc"}}, "runner.agent is 'dave/vc'"),
        ({"name": "a", "runner": {"agent": "claude", "prompt": "x"}}, "runner has no 'prompt'"),
        ({"name": "a", "runner": {"agent": "custom"}}, "needs its command"),
        ({"name": "a", "runner": {"agent": "claude", "env": {"API_KEY": "sk-12345678"}}}, "what stands in a plan"),
        ({"name": "a", "objective": "do {{ needs.a.output }}"}, "holds no templates"),
        ({"name": "a", "objective": "nul\0"}, "NUL"),
    ],
)
def test_what_does_not_hold_is_refused(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        profile_of(body)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("dave/vc", Choice("name", "dave/vc")),
        ("default", Choice("default", "")),
        ("role:code reviewer", Choice("role", "code reviewer")),
        ("label:python", Choice("label", "python")),
        ("other:thing", Choice("name", "other:thing")),
    ],
)
def test_whom_a_plan_may_ask_for(text: str, choice: Choice) -> None:
    assert choice_of(text) == choice


def test_a_job_becomes_what_its_agent_is_and_what_the_job_says_goes_first() -> None:
    job = AgentCall("dave/vc", "Mend it", args=("--fast",), env={"A": "2", "B": "3"}, secrets=("MY_KEY", "OTHER"))

    call = WHOLE.call(job)

    assert (call.agent, call.model, call.args) == ("claude", "m", ("--max-turns", "5", "--fast"))
    assert (call.env, call.secrets) == ({"A": "2", "B": "3"}, ("MY_KEY", "OTHER"))
    assert call.prompt == (
        "You are dave/vc.\nYour role: mender\nYour objective: Keep the tests green\nYour personality: calm\n"
        "How you behave: asks first\n\nMend it"
    )
    assert WHOLE.call(AgentCall("dave/vc", "x", model="bigger")).model == "bigger"


def test_an_agent_that_is_chatted_with_is_told_who_it_is_beforehand() -> None:
    runner = {"chat": "openai:gpt", "system": "Be terse", "secrets": ["TEAM_KEY"], "settings": {"max_steps": 3}}
    profile = checked(Profile("ann", runner=runner, identity={"role": "reviewer"}))

    call = profile.call(AgentCall("ann", "Look at it", secrets=["OTHER"]))

    assert call == ChatCall(
        "openai:gpt",
        "Look at it",
        system="You are ann.\nYour role: reviewer\n\nBe terse",
        settings={"max_steps": 3},
        secrets=("TEAM_KEY", "OTHER"),
    )
    assert replace(profile, model="gpt-2").call(AgentCall("ann", "x")).chat == "openai:gpt-2"
    assert profile.call(AgentCall("ann", "x", model="gpt-3")).chat == "openai:gpt-3"
    with pytest.raises(Refused, match="a chat takes no args"):
        profile.call(AgentCall("ann", "x", args=["--fast"]))


def test_an_agent_of_whom_nothing_is_said_adds_nothing_to_the_prompt() -> None:
    assert Profile("a", runner={"agent": "codex"}).call(AgentCall("a", "Mend it")).prompt == "Mend it"


def test_an_agent_without_a_runner_runs_nothing() -> None:
    with pytest.raises(Refused, match="has no runner"):
        checked(Profile("a")).call(AgentCall("a", "x"))
