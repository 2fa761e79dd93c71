"""Jobs as people write them: read, stored, and refused with what is wrong."""

from __future__ import annotations

import json

import pytest

from coordination.domain.chat import ChatCall
from coordination.domain.work import AgentCall, PythonCall, Shell, parse_work, target_of
from coordination.errors import Refused


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
    assert parse_work(json.loads(json.dumps(work.to_json()))) == work
    assert parse_work(work) == work


@pytest.mark.parametrize("env", [{"MAX_TOKENS": "32000000"}, {"TOKEN": "{{ needs.a.output }}"}, {"API_KEY": ""}])
def test_what_is_no_secret_may_stand_in_the_environment_of_an_agent(env: dict[str, str]) -> None:
    assert parse_work({"agent": "claude", "prompt": "x", "env": env}).env == env


def test_an_importable_function_is_a_job() -> None:
    assert parse_work(json.dumps) == PythonCall("json:dumps")
    assert target_of(json.JSONEncoder.encode) == "json.encoder:JSONEncoder.encode"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "this one has nothing"),
        ({"shell": "a", "python": "b:c"}, "has one of the keys shell, python, agent, chat"),
        ({"shel": "a"}, "this one has shel"),
        ({"shell": "a", "args": {}}, "A shell job has no key 'args'"),
        ({"shell": ""}, "needs a command"),
        ({"shell": "  \n"}, "needs a command"),
        ({"shell": ["ls"]}, "needs a command"),
        ({"agent": "claude", "prompt": "x", "resume": ["x"]}, "resume is for agent: custom"),
        (
            {"agent": "custom", "prompt": "x", "command": ["t"], "resume": ["t", "{session}"]},
            "needs a place for {session}",
        ),
        ({"agent": "claude", "prompt": "x", "tools": ["git"]}, "An agent is given no tools 'git'"),
        (
            {"agent": "codex", "prompt": "x", "tools": ["coord"]},
            "codex is told of MCP servers by its own configuration",
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": ["git"]}, "an MCP server is a mapping, or coord"),
        ({"shell": "a", "env": {"X": 1}}, "env must map names to texts"),
        ({"python": "module"}, "does not name a function"),
        ({"python": "a:b; import os"}, "does not name a function"),
        ({"python": 5}, "does not name a function"),
        ({"python": "a:b", "args": {1: 2}}, "args must map"),
        ({"python": "a:b", "args": [1]}, "args must map"),
        ({"agent": "a b", "prompt": "x"}, "'a b' names no agent"),
        ({"agent": "role:", "prompt": "x"}, "names no agent"),
        ({"agent": 5, "prompt": "x"}, "5 names no agent"),
        ({"agent": "dave/vc", "prompt": "x", "command": ["x"]}, "How dave/vc is started, the workspace knows"),
        ({"agent": "claude"}, "needs a prompt"),
        ({"agent": "claude", "prompt": " \n"}, "needs a prompt"),
        ({"agent": "claude", "prompt": ["x"]}, "needs a prompt"),
        ({"agent": "claude", "prompt": "x", "model": 5}, "model must be"),
        ({"agent": "claude", "prompt": "x", "args": "--fast"}, "args must be a list of texts"),
        ({"agent": "claude", "prompt": "x", "secrets": ["sk-ant-123"]}, "names no variable"),
        ({"agent": "claude", "prompt": "x", "env": {"MY_API_KEY": "sk-ant-12345"}}, "what stands in a plan is stored"),
        ({"agent": "claude", "prompt": "x", "reads": {"format": "json"}}, "What claude prints is known"),
        ({"agent": "custom", "prompt": "x"}, "needs its command"),
        ({"agent": "custom", "prompt": "x", "command": [" "]}, "needs its command"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"answer": "x"}}, "reads has no 'answer'"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"format": "xml"}}, "reads.format is 'xml'"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"format": "json"}}, "where the result stands"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": {"result": "a"}}, "from JSON only"),
        ({"agent": "custom", "prompt": "x", "command": ["t"], "reads": 5}, "reads must map"),
        ({"chat": "gpt-5", "prompt": "x"}, "'gpt-5' names no model"),
        ({"chat": "openai:", "prompt": "x"}, "names no model"),
        ({"chat": 5, "prompt": "x"}, "5 names no model"),
        ({"chat": "openai:m"}, "A chat needs a prompt"),
        ({"chat": "openai:m", "prompt": " "}, "A chat needs a prompt"),
        ({"chat": "openai:m", "prompt": "x", "model": "y"}, "A chat job has no key 'model'"),
        ({"chat": "openai:m", "prompt": "x", "system": 5}, "system must be a text"),
        ({"chat": "openai:m", "prompt": "x", "url": "ftp://x"}, "is no address"),
        ({"chat": "openai:m", "prompt": "x", "url": "http://me:pass@x"}, "is no address"),
        ({"chat": "openai:m", "prompt": "x", "url": "http://" + "x" * 3000}, "is no address"),
        ({"chat": "openai:m", "prompt": "x", "schema": "object"}, "schema must be a JSON Schema"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"heat": 1}}, "settings has no 'heat'"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"temperature": 3}}, "from 0 to 2, not 3"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"temperature": True}}, "from 0 to 2, not True"),
        ({"chat": "openai:m", "prompt": "x", "settings": {"max_tokens": 1.5}}, "a whole number"),
        ({"chat": "openai:m", "prompt": "x", "secrets": "KEY"}, "secrets must be a list of texts"),
        ({"chat": "openai:m", "prompt": "x", "secrets": ["sk-1"]}, "names no variable"),
        ({"chat": "openai:m", "prompt": "x", "env": {"MY_API_KEY": "sk-ant-12345"}}, "what stands in a plan is stored"),
        (
            {"chat": "openai:m", "prompt": "x", "url": "http://{{ input.x }}/v1"},
            "addresses and tools hold no templates",
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x", "{{ run.id }}"]}]}, "hold no templates"),
        ({"chat": "openai:m", "prompt": "x", "tools": {"command": ["x"]}}, "tools must be a list"),
        ({"chat": "openai:m", "prompt": "x", "tools": ["x"]}, "tools, number 1: an MCP server is a mapping"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"comand": ["x"]}]}, "an MCP server has no 'comand'"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": []}]}, "command is empty"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": "x"}]}, "command must be a list"),
        (
            {"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "url": "http://x"}]},
            "either a command or a",
        ),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"url": "http://x", "env": {"A": "b"}}]}, "has no env of ours"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "env": {"A": 1}}]}, "env must map"),
        ({"chat": "openai:m", "prompt": "x", "tools": [{"command": ["x"], "secrets": ["a b"]}]}, "names no variable"),
        ("ls", "not str"),
        (None, "not NoneType"),
        (lambda: 1, "could not import it"),
    ],
)
def test_what_is_no_job_is_refused_with_what_is_wrong(value, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        parse_work(value)
