"""Chats in plan files: what holds, and what is wrong with the others, with line and remedy."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from coordination.errors import PlanError
from coordination.formats.plan import plan_schema, read_plan

CHAT = "version: 1\ntasks:\n  - {{key: a, run: {{chat: 'openai:m', prompt: x, {}}}}}\n"
VALIDATOR = jsonschema.Draft202012Validator(plan_schema())


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\ntasks:\n  - {key: a, run: {chat: gpt, prompt: x}}\n", 3, "Write it like openai:gpt-5-mini"),
        ("version: 1\ntasks:\n  - {key: a, run: {chat: 'o:m'}}\n", 3, "A chat needs a prompt"),
        (CHAT.format("setings: {}"), 3, "Did you mean 'settings'"),
        (CHAT.format("settings: {max_step: 3}"), 3, "Did you mean 'max_steps'"),
        (CHAT.format("settings: {max_steps: 0}"), 3, "max_steps must be a whole number from 1 to 1,000, not 0"),
        (CHAT.format("settings: {temperature: hot}"), 3, "temperature must be a number"),
        (CHAT.format("schema: [a]"), 3, "schema must be a mapping"),
        (CHAT.format("schema: {required: [on]}"), 3, 'Write "on" for the text'),
        (CHAT.format("tools: npx"), 3, "a list of MCP servers"),
        (CHAT.format("tools: [npx]"), 3, "tools must hold mappings"),
        (CHAT.format("tools: [{comand: [npx]}]"), 3, "Did you mean 'command'"),
        (CHAT.format("tools: [{}]"), 3, "tools, number 1: an MCP server has either a command or a url"),
        (CHAT.format("url: 'file:///x'"), 3, "is no address"),
    ],
)
def test_the_sentence_names_line_and_remedy(text: str, line: int, says: str) -> None:
    with pytest.raises(PlanError) as refused:
        read_plan(text.encode(), source="plan.yaml")

    assert says in refused.value.sentence()
    assert refused.value.line == line


def test_the_schema_takes_what_the_reader_takes() -> None:
    text = CHAT.format(
        "schema: {type: object}, tools: [coord, {command: [npx]}, {url: 'http://x/mcp', secrets: [A]}], settings: {}"
    )

    read_plan(text.encode(), source="plan.yaml")

    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\ntasks: [{key: a, run: {chat: 'openai:m'}}]",
        CHAT.format("settings: {temperature: 3}"),
        CHAT.format("tools: {}"),
        CHAT.format("tools: [cord]"),
        "version: 1\ntasks: [{key: a, run: {agent: claude, prompt: x, tools: [git]}}]",
    ],
)
def test_what_the_reader_refuses_the_schema_refuses(text: str) -> None:
    with pytest.raises(PlanError):
        read_plan(text.encode(), source="plan.yaml")

    assert not VALIDATOR.is_valid(yaml.safe_load(text))
