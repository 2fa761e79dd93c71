"""Test jobs as people write them: read, stored, and refused with the error."""

from __future__ import annotations

import json

import pytest

from coordination.base.errors import Refused
from coordination.domain.jobs import AgentCall, ChatCall, PythonCall, Shell, parse_job, target_of
from tests.support.refusals import refuses


@pytest.mark.parametrize(
    "work",
    [
        Shell("echo hi"),
        Shell("echo $X", env={"X": "1"}),
        PythonCall("pkg.jobs:count"),
        PythonCall("pkg:Class.method", args={"path": "src"}, env={"X": "1"}),
        AgentCall("claude", "Mend it"),
        AgentCall("dave/vc", "Mend it", tools=("coord",)),
        AgentCall("role:reviewer", "Look at it"),
        AgentCall(
            "custom",
            "Mend it",
            model="m",
            args=("--fast",),
            env={"X": "1"},
            secrets=("MY_KEY",),
            command=("tool", "{prompt}"),
            resume=("tool", "--on", "{session}"),
            reads={"format": "jsonl", "result": "answer.text", "session": "id", "input_tokens": "usage.in"},
        ),
        ChatCall("openai:gpt-5-mini", "Sum up"),
        ChatCall(
            "ollama:llama3:8b",
            "Sum up",
            system="You are terse",
            url="http://localhost:11434/v1",
            schema={"type": "object"},
            tools=(
                "coord",
                {"command": ["npx", "x"], "env": {"A": "b"}, "secrets": ["MY_KEY"]},
                {"url": "https://x.example/mcp"},
            ),
            settings={"temperature": 0, "max_tokens": 10, "max_steps": 3},
            env={"X": "1"},
            secrets=("MY_KEY",),
        ),
        ChatCall("{{ input.model }}", "Sum up"),
    ],
)
def test_a_job_comes_back_from_its_stored_form(work) -> None:
    assert parse_job(json.loads(json.dumps(work.to_json()))) == work
    assert parse_job(work) == work


@pytest.mark.parametrize("env", [{"MAX_TOKENS": "32000000"}, {"TOKEN": "{{ needs.a.output }}"}, {"API_KEY": ""}])
def test_what_is_no_secret_may_stand_in_the_environment_of_an_agent(env: dict[str, str]) -> None:
    assert parse_job({"agent": "claude", "prompt": "x", "env": env}).env == env


def test_an_importable_function_is_a_job() -> None:
    assert parse_job(json.dumps) == PythonCall("json:dumps")
    assert target_of(json.JSONEncoder.encode) == "json.encoder:JSONEncoder.encode"


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({}, None),
        ({"shell": "a", "python": "b:c"}, None),
        ({"shel": "a"}, None),
        ({"shell": "a", "args": {}}, "args"),
        ({"shell": ""}, "shell"),
        ({"shell": "  \n"}, "shell"),
        ({"shell": ["ls"]}, "shell"),
        ({"agent": "claude", "prompt": "x", "resume": ["x"]}, "resume"),
        (
            {"agent": "custom", "prompt": "x", "command": ["t"], "resume": ["t", "{session}"]},
            "resume",
        ),
        ({"agent": "claude", "prompt": "x", "tools": ["git"]}, "tools"),
        (
            {"agent": "codex", "prompt": "x", "tools": ["coord"]},
            "tools",
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": ["git"]}, "tools[0]"),
        ({"shell": "a", "env": {"X": 1}}, "env.X"),
        ({"python": "module"}, "python"),
        ({"python": "a:b; import os"}, "python"),
        ({"python": 5}, "python"),
        ({"python": "a:b", "args": {1: 2}}, "args"),
        ({"python": "a:b", "args": [1]}, "args"),
        ({"agent": "a b", "prompt": "x"}, "agent"),
        ({"agent": "role:", "prompt": "x"}, "agent"),
        ({"agent": 5, "prompt": "x"}, "agent"),
        ({"agent": "dave/vc", "prompt": "x", "command": ["x"]}, "command"),
        ({"agent": "claude"}, "prompt"),
        ({"agent": "claude", "prompt": " \n"}, "prompt"),
        ({"agent": "claude", "prompt": ["x"]}, "prompt"),
        ({"agent": "claude", "prompt": "x", "model": 5}, "model"),
        ({"agent": "claude", "prompt": "x", "args": "--fast"}, "args"),
        ({"agent": "claude", "prompt": "x", "secrets": ["sk-ant-123"]}, "secrets"),
        ({"agent": "claude", "prompt": "x", "env": {"MY_API_KEY": "sk-ant-12345"}}, "env"),
        ({"agent": "claude", "prompt": "x", "reads": {"format": "json"}}, "reads"),
        ({"agent": "custom", "prompt": "x"}, "command"),
        ({"agent": "custom", "prompt": "x", "command": [" "]}, "command"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"answer": "x"}}, "reads"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"format": "xml"}}, "reads.format"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"format": "json"}}, "reads.result"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"result": "a"}}, "reads.format"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": 5}, "reads"),
        ({"chat": "gpt-5", "prompt": "x"}, "chat"),
        ({"chat": "openai:", "prompt": "x"}, "chat"),
        ({"chat": 5, "prompt": "x"}, "chat"),
        ({"chat": "openai:m"}, "prompt"),
        ({"chat": "openai:m", "prompt": " "}, "prompt"),
        ({"chat": "openai:m", "prompt": "x", "model": "y"}, "model"),
        ({"chat": "openai:m", "prompt": "x", "system": 5}, "system"),
        ({"chat": "openai:m", "prompt": "x", "url": "ftp://x"}, "url"),
        ({"chat": "openai:m", "prompt": "x", "url": "http://me:pass@x"}, "url"),
        ({"chat": "openai:m", "prompt": "x", "url": "http://" + "x" * 3000}, "url"),
        ({"chat": "openai:m", "prompt": "x", "tools": ["http://me:pass@x"]}, "tools[0]"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"url": "http://me:pass@x"}]}, "tools[0].url"),
        ({"chat": "openai:m", "prompt": "x", "schema": "object"}, "schema"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"heat": 1}}, "settings.heat"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"temperature": 3}}, "settings.temperature"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"temperature": True}}, "settings.temperature"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"max_tokens": 1.5}}, "settings.max_tokens"),
        ({"chat": "openai:m", "prompt": "x", "secrets": "KEY"}, "secrets"),
        ({"chat": "openai:m", "prompt": "x", "secrets": ["sk-1"]}, "secrets"),
        ({"chat": "openai:m", "prompt": "x", "env": {"MY_API_KEY": "sk-ant-12345"}}, "env"),
        (
            {"chat": "openai:m", "prompt": "x", "url": "http://{{ input.x }}/v1"},
            None,
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x", "{{ run.id }}"]}]}, "tools[0]"),
        ({"chat": "openai:m", "prompt": "x", "tools": {"command": ["x"]}}, "tools"),
        ({"chat": "openai:m", "prompt": "x", "tools": ["x"]}, "tools[0]"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"comand": ["x"]}]}, "tools[0].comand"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": []}]}, "tools[0].command"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": "x"}]}, "tools[0].command"),
        (
            {"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "url": "http://x"}]},
            "tools[0]",
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"url": "http://x", "env": {"A": "b"}}]}, "tools[0].env"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "env": {"A": 1}}]}, "tools[0].env.A"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "secrets": ["a b"]}]}, "tools[0].secrets"),
        ("ls", None),
        (None, None),
        (lambda: 1, None),
    ],
)
def test_what_is_no_job_is_refused_with_what_is_wrong(value, field: str | None) -> None:
    with refuses(Refused, field=field):
        parse_job(value)
