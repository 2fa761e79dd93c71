"""Test prompts of agents: all they need, no absent parts, in the project's own words if it has some."""

from __future__ import annotations

import timeit
from dataclasses import replace
from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.agents import prompts
from coordination.domain.agents.prompts import (
    ANALYZE,
    ANSWER,
    ASSESS,
    RESUME,
    WORKER,
    PromptContext,
    build_prompt,
    check_prompt_template,
    mentions_run,
)
from coordination.domain.jobs.templates import escape_template, fill
from tests.support.jobs import claim_of
from tests.support.refusals import refuses

SHOP = PromptContext("shop")


def prompt_of(project: PromptContext = SHOP, *, kind: str = WORKER, reports: bool = False, **changes: Any) -> str:
    return build_prompt(
        "Mend it",
        claim_of({"agent": "claude", "prompt": "Mend it"}, **changes),
        project,
        kind=kind,
        shows_needs=True,
        reports=reports,
    )


def test_with_nothing_to_add_the_prompt_is_what_its_author_wrote() -> None:
    assert prompt_of() == "Mend it"


def test_it_tells_of_criteria_gates_answers_and_what_went_wrong() -> None:
    text = prompt_of(
        options={"criteria": ["no warnings"], "gates": [{"run": "pytest -q"}], "checkout": {"kind": "git-worktree"}},
        carried_over={"feedback": "2 failed", "answers": [{"question": "Why?", "answer": "So", "by": "ann"}]},
        needs={"lint": {"state": "completed", "output": {"found": 3}}, "dead": {"state": "failed", "output": None}},
        reports=True,
        failures=1,
        max_attempts=3,
        attempt=4,
    )

    for words in (
        "- no warnings\n",
        "- `pytest -q`\n",
        '### lint (completed)\n{"found": 3}\n',
        "### dead (failed)\n",
        "- Why?\n  Answer: So\n",
        "was rejected\n2 failed\n",
        "attempt 4 (1 of 3 have failed).",
        "git worktree of your own",
        "`coord task fail",
    ):
        assert words in text, words
    assert text.startswith("Mend it\n\n## Acceptance criteria")


@pytest.mark.parametrize(
    ("work", "said", "unsaid"),
    [
        ({"agent": "claude"}, "`coord task ask", "MCP"),
        ({"agent": "claude", "tools": ["coord"]}, "MCP server `coord`", "coord task"),
        ({"chat": "openai:m", "tools": [{"url": "http://x"}, "coord"]}, "MCP server `coord`", "coord task"),
        ({"chat": "openai:m", "tools": [{"url": "http://x"}]}, "Mend it", "report"),
    ],
)
def test_it_is_told_to_report_with_what_it_has(work: dict[str, Any], said: str, unsaid: str) -> None:
    text = build_prompt("Mend it", claim_of(work), SHOP, shows_needs=True, reports=True)

    assert said in text
    assert unsaid not in text


def test_what_a_project_says_of_itself_is_told() -> None:
    project = PromptContext("shop", settings={"tech_stack": "Python, Redis", "spec_path": "docs/spec.md"})

    assert "Project shop (Python, Redis), task `fix`, attempt 1.\nThe specification: docs/spec.md" in prompt_of(project)


def test_a_long_output_is_cut_and_says_so() -> None:
    text = prompt_of(needs={"lint": {"state": "completed", "output": "x" * 100_000}})

    assert "x… (100,000 characters in all)" in text
    assert len(text) < 2 * prompts.LONGEST_OUTPUT


def test_who_goes_on_is_told_what_is_new_first() -> None:
    text = prompt_of(kind=RESUME, carried_over={"answers": [{"question": "Why?", "answer": "So", "by": "ann"}]})

    assert text.startswith("You asked: Why?\nAnswer: So\n")
    assert text.endswith("The task was:\n\nMend it")
    assert "How to report" not in text


def test_words_that_were_used_before_take_a_fraction_of_the_first_time() -> None:
    def least(words: list[str]) -> float:
        return min(timeit.timeit(lambda text=text: fill(text, {"x": 1}), number=1) for text in words)

    words = "{% if x %}{{ x }}{% for y in [1, 2] %} {{ y + x }}{% endfor %}{% endif %}" * 50
    fill(words, {"x": 1})

    assert least([words] * 10) * 5 < least([f"{words} {n}" for n in range(10)])


def test_words_that_were_used_before_have_new_values_and_limits_of_their_own() -> None:
    words = "{{ 'Yes' }} {{ [1] }} {% for x in xs %}{% for y in xs %}{{ x }}{% endfor %}{% endfor %}"
    assert [fill(words, {"xs": [text]}) for text in ("a", "b", "a")] == [f"Yes [1] {text}" for text in ("a", "b", "a")]

    for _ in range(3):
        fill(words, {"xs": [""] * 250})  # together they run more loops than one may

    for _ in range(2):
        with refuses(Refused):
            fill(words, {"xs": [""] * 400})


def test_values_are_never_templates() -> None:
    claim = replace(claim_of({"agent": "claude", "prompt": "x"}), carried_over={"feedback": "{{ task.key }} {% for %}"})

    assert "{{ task.key }} {% for %}" in build_prompt("{{ x }}", claim, SHOP, shows_needs=True, reports=False)


def test_a_project_may_have_its_own_words() -> None:
    project = PromptContext(
        "shop", settings={"prompts": {"worker": "In {{ project.name }}: {{ task.prompt | upper }}"}}
    )

    assert prompt_of(project) == "In shop: MEND IT"
    assert "Go on with your task" in prompt_of(project, kind=RESUME)
    assert prompt_of(PromptContext("shop", settings={"prompts": "rubbish"})) == "Mend it"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("worker", "{{ nobody }}"),
        ("worker", "{{ task.colour }}"),
        ("worker", "{% if %}"),
        ("worker", " "),
        ("worker", "x" * 100_001),
        ("wroker", "x"),
        ("worker", "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"),
    ],
)
def test_words_that_could_not_be_used_are_refused(kind: str, words: str) -> None:
    with refuses(Refused):
        check_prompt_template(kind, words)


def test_our_own_words_can_be_used() -> None:
    for kind, words in prompts.KINDS.items():
        check_prompt_template(kind, words)


@pytest.mark.parametrize("text", ["plain", "a {{ x }} b", "{% raw %}{{", "{% endraw %}", "{{{{%%}}", "{%"])
def test_a_literal_is_rendered_as_it_was(text: str) -> None:
    assert fill(escape_template(text), {}) == text


@pytest.mark.parametrize("kind", [ASSESS, ANALYZE, ANSWER])
def test_supervising_agents_are_told_the_projects_strategy(kind: str) -> None:
    plain = PromptContext("shop")
    strategic = PromptContext("shop", settings={"supervisor": {"strategy": "Small steps first"}})

    assert "The strategy\nSmall steps first\n" in prompt_of(strategic, kind=kind)
    assert "strategy\n" not in prompt_of(plain, kind=kind).replace('"strategy"', "")


def test_a_projects_own_words_can_name_the_agents_and_the_graph_of_tasks() -> None:
    words = (
        "{% for agent in agents %}{{ agent.name }} ({{ agent.role }}) {% endfor %}"
        "{% for one in graph %}{{ one.key }}: {{ one.needs | join(' ') }}; {% endfor %}"
    )
    project = PromptContext(
        "shop",
        settings={"prompts": {"worker": words}},
        agents=[{"name": "ann", "role": "reviewer"}],
        graph=[{"key": "build", "needs": []}, {"key": "test", "needs": ["build"]}],
    )

    assert mentions_run(project, WORKER)
    assert not mentions_run(SHOP, WORKER)
    assert prompt_of(project) == "ann (reviewer) build: ; test: build;"
