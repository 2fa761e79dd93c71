"""Test restrictions of models: what a name matches, where a job names one, and invalid patterns."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.domain.jobs import AgentCall, ChatCall, PythonCall, Shell
from coordination.domain.projects.model_policy import (
    ModelPolicy,
    model_names,
    parse_restrictions,
    refusal,
    steps_to_allow,
)
from tests.support.refusals import refuses


def may(work: Any, *, rendered: bool = False, **said: Any) -> bool:
    restrictions = parse_restrictions(said)
    assert restrictions is not None
    return refusal(work.to_json(), restrictions, rendered=rendered) is None


def chat(model: str) -> ChatCall:
    return ChatCall(model, "Hello")


def claude(model: str | None = None, **more: Any) -> AgentCall:
    return AgentCall("claude", "Mend it", model=model, **more)


class TestNames:
    @pytest.mark.parametrize(
        ("work", "allowed"),
        [
            (claude("claude-haiku-4-5"), True),
            (claude("Claude-Haiku-4-5"), True),
            (chat("anthropic:claude-haiku-4-5"), True),
            (AgentCall("opencode", "x", model="anthropic/claude-haiku-4-5"), True),
            (chat("openai:gpt-5-mini"), True),
            (AgentCall("opencode", "x", model="openai/gpt-5-mini"), True),
            (chat("openai:gpt-4"), False),
            (chat("house:gpt-5-mini"), False),
            (claude("opus"), False),
            (claude("sonnet"), False),
        ],
    )
    def test_only_what_is_allowed_may_run(self, work, allowed):
        assert may(work, allow=["claude-*", "openai:gpt-5-*"]) is allowed

    @pytest.mark.parametrize(
        "work",
        [
            claude("claude-opus-4-1"),
            claude("opus"),
            chat("anthropic:claude-OPUS-4"),
            AgentCall("opencode", "x", model="a/b/opus"),
        ],
    )
    def test_what_is_denied_may_not_whatever_allows_it(self, work):
        assert not may(work, deny=["*opus*"])
        assert not may(work, allow=["*"], deny=["*opus*"])

    @pytest.mark.parametrize(
        ("pattern", "name", "meant"),
        [
            ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5[1m]", True),
            ("Claude-Sonnet-4-5[1M]", "claude-sonnet-4-5[1m]", True),
            ("claude-sonnet-4-5[1m]", "anthropic:claude-sonnet-4-5[1m]", True),
            ("claude-*[1m]", "claude-opus-4-6[1m]", True),
            ("*[1m]", "us.anthropic.claude-opus-4-6-v1[1m]", True),
            ("composer-*[fast=true]", "composer-2.5[fast=true]", True),
            ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5", False),
            ("claude-sonnet-4-5[1m]", "claude-sonnet-4-51", False),
            ("composer-*[fast=true]", "composer-2.5-fast", False),
            ("gpt-[45]*", "gpt-5-mini", True),
            ("gpt-[!45]*", "gpt-5-mini", False),
            ("gpt-[45]*", "gpt-[45]*", True),
            ("a[b", "a[b", True),
            ("claude-opus-*", "us.anthropic.claude-opus-4-1-20250805-v1:0", True),
            ("claude-opus-*", "bedrock/us.anthropic.claude-opus-4-1-20250805-v1:0", True),
            ("anthropic.claude-*", "us.anthropic.claude-opus-4-1-20250805-v1:0", False),
        ],
    )
    def test_a_pattern_means_the_name_that_is_written_like_it(self, pattern, name, meant):
        assert may(claude(name), allow=[pattern]) is meant
        assert may(claude(name), deny=[pattern]) is not meant

    def test_a_provider_can_be_denied(self):
        assert not may(chat("openai:gpt-5"), deny=["openai:*"])
        assert not may(AgentCall("opencode", "x", model="openai/gpt-5"), deny=["openai:*"])
        assert may(chat("anthropic:claude-haiku-4-5"), deny=["openai:*"])

    def test_a_job_without_a_model_is_not_concerned(self):
        assert may(Shell("ls"), allow=["claude-*"])
        assert may(PythonCall("a:b"), allow=["claude-*"])

    def test_an_agent_has_to_name_its_model_where_only_some_are_allowed(self):
        assert not may(claude(), allow=["claude-*"])
        assert may(claude(), deny=["*opus*"])

    def test_the_sentence_says_what_is_allowed(self):
        result = refusal(claude("opus").to_json(), ModelPolicy(("claude-*",), ("*opus*",)))
        unnamed = refusal(claude().to_json(), ModelPolicy(tuple(f"m{number}" for number in range(9))))

        assert result == "the project does not allow the model 'opus' (allowed: claude-*; denied: *opus*)"
        assert unnamed is not None
        assert "it names no model" in unnamed
        assert "and 3 more" in unnamed

    def test_a_template_is_looked_at_when_it_is_filled_in(self):
        assert may(chat("{{ needs.choice.output }}"), allow=["claude-*"])
        assert not may(chat("{{ needs.choice.output }}"), allow=["claude-*"], rendered=True)
        assert not may(claude("opus", args=["--model", "{{ input.model }}"]), deny=["opus"])


class TestPlaces:
    @pytest.mark.parametrize(
        ("work", "models"),
        [
            (claude("haiku"), ["haiku"]),
            (claude(args=["--model", "opus", "--verbose"]), ["opus"]),
            (claude(args=["--model=opus"]), ["opus"]),
            (claude("haiku", args=["--fallback-model", "opus,sonnet"]), ["haiku", "opus", "sonnet"]),
            (claude(command=["claude", "--model", "opus"]), ["opus"]),
            (claude(env={"ANTHROPIC_MODEL": "opus", "OTHER": "x"}), ["opus"]),
            (claude(args=["-m", "x", "--modelling"]), []),
            (AgentCall("codex", "x", args=["-m", "gpt-5"]), ["gpt-5"]),
            (AgentCall("codex", "x", args=["-mgpt-5"]), ["gpt-5"]),
            (AgentCall("codex", "x", args=["-c", 'model="gpt-5"']), ["gpt-5"]),
            (AgentCall("codex", "x", args=["--config=model=gpt-5"]), ["gpt-5"]),
            (AgentCall("codex", "x", args=["-c", "sandbox=none"]), []),
            (AgentCall("gemini", "x", args=["-m", "gemini-pro"]), ["gemini-pro"]),
            (
                AgentCall("custom", "x", command=["python", "-m", "tool", "--model", "{model}"], model="small"),
                ["small"],
            ),
            (AgentCall("custom", "x", command=["tool", "--model", "large"]), ["large"]),
            (claude(args=["--model"]), []),
        ],
    )
    def test_a_model_is_found_wherever_a_job_names_it(self, work, models):
        assert list(model_names(work.to_json())) == models

    def test_no_argument_gets_around_them(self):
        assert not may(claude("haiku", args=["--model", "opus"]), allow=["haiku"])


class TestReading:
    def test_nothing_said_is_no_restriction(self):
        assert parse_restrictions({}) is None
        assert parse_restrictions({"deny": []}) is None
        assert parse_restrictions({"allow": None}) is None

    @pytest.mark.parametrize(
        ("said", "field"),
        [
            ({"alow": ["x"]}, "alow"),
            ({"allow": "claude-*"}, "allow"),
            ({"deny": [5]}, "deny"),
            ({"deny": [" "]}, "deny"),
            ({"deny": {"a": "b"}}, "deny"),
            ({"allow": []}, "allow"),
            ({"allow": ["x" * 201]}, "allow"),
            ({"allow": ["x"] * 201}, "allow"),
        ],
    )
    def test_what_cannot_be_understood_is_refused(self, said, field):
        with refuses(Refused, field=field):
            parse_restrictions(said)

    @given(
        st.text(min_size=1, max_size=30).filter(str.strip), st.lists(st.text(min_size=1, max_size=9).filter(str.strip))
    )
    def test_no_pattern_and_no_name_breaks_it(self, name, patterns):
        for output in ({"deny": patterns}, {"allow": patterns}):
            if patterns:
                assert may(claude(name), rendered=True, **output) in {True, False}
        assert not may(claude(name), rendered=True, deny=[name])
        assert may(claude(name), rendered=True, allow=[name])


class TestTheCommandThatAllowsAModel:
    @pytest.mark.parametrize(
        ("stored", "model", "changes"),
        [
            ({"deny": ["big-*"]}, "big-1", {"deny": None}),
            ({"deny": ["big-*", "old"]}, "big-1", {"deny": ["old"]}),
            ({"allow": ["small-*"]}, "big-1", {"allow": ["small-*", "big-1"]}),
            ({"allow": ["small-*"], "deny": ["*1"]}, "big-1", {"allow": ["small-*", "big-1"], "deny": None}),
            ({"allow": ["small-*"], "deny": ["old"]}, None, {"allow": None}),
            ({"allow": ["small-*"]}, "{{ input.model }}", {"allow": ["small-*", "MODEL"]}),
            ({"deny": ["big-*"]}, "{{ input.model }}", {"deny": None}),
            ({"deny": 5}, "big-1", {"deny": None}),
        ],
    )
    def test_it_changes_the_lists_that_forbid_it(self, stored, model, changes):
        work = claude(model).to_json()

        *_, step = steps_to_allow("my shop", stored, [work])

        words = shlex.split(step.command)
        assert words[:5] == ["coord", "projects", "change", "my shop", "--models"]
        printed = [word.partition("=") for word in words[4:] if word != "--models"]
        assert {key: json.loads(value) for key, _, value in printed} == changes
        policy = parse_restrictions({**stored, **changes})
        assert policy is None or "{{" in str(model) or refusal(work, policy) is None

    def test_nothing_is_changed_that_forbids_nothing(self):
        assert [step.what for step in steps_to_allow("shop", {}, [claude("big-1").to_json()])] == [
            "show the allowed models"
        ]
