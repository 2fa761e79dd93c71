"""Test chats in plan files: valid ones, and errors with line and remedy."""

from __future__ import annotations

import jsonschema
import pytest
import yaml

from coordination.base.errors import PlanError
from coordination.formats.plan import plan_schema, read_plan
from tests.support.refusals import refuses

CHAT = "version: 1\ntasks:\n  - {{key: a, run: {{chat: 'openai:m', prompt: x, {}}}}}\n"
VALIDATOR = jsonschema.Draft202012Validator(plan_schema())


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("version: 1\ntasks:\n  - {key: a, run: {chat: gpt, prompt: x}}\n", 3, "tasks.a.run.chat"),
        ("version: 1\ntasks:\n  - {key: a, run: {chat: 'o:m'}}\n", 3, "tasks.a.run.prompt"),
        (CHAT.format("setings: {}"), 3, "tasks.a.run.setings"),
        (CHAT.format("settings: {max_step: 3}"), 3, "tasks.a.run.settings.max_step"),
        (CHAT.format("settings: {max_steps: 0}"), 3, "tasks.a.run.settings.max_steps"),
        (CHAT.format("settings: {temperature: hot}"), 3, "tasks.a.run.settings.temperature"),
        (CHAT.format("schema: [a]"), 3, "tasks.a.run.schema"),
        (CHAT.format("schema: {required: [on]}"), 3, "tasks.a.run.schema"),
        (CHAT.format("tools: npx"), 3, "tasks.a.run.tools"),
        (CHAT.format("tools: [npx]"), 3, "tasks.a.run.tools[0]"),
        (CHAT.format("tools: [{comand: [npx]}]"), 3, "tasks.a.run.tools[0].comand"),
        (CHAT.format("tools: [{}]"), 3, "tasks.a.run.tools[0]"),
        (CHAT.format("url: 'file:///x'"), 3, "tasks.a.run.url"),
    ],
)
def test_the_sentence_names_line_and_remedy(text: str, line: int, field: str | None) -> None:
    with refuses(PlanError, field=field, line=line):
        read_plan(text.encode(), source="plan.yaml")


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
