"""Test tasks that expand into several: their parts, what varies, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from coordination.base.errors import PlanError, Refused
from coordination.domain.agents.review_answers import read_analysis, read_answer, read_assessment
from coordination.domain.plans import graph
from coordination.domain.plans.plan_expansion import apply_overlay, check_supervisor, expand, supervision_of
from coordination.domain.plans.plans import Plan, Supervision, Task
from tests.support.refusals import refuses

AGENT = {"agent": "claude", "prompt": "Mend {{ needs.find.output }}", "args": ["--fast"], "secrets": ["KEY"]}


def parts(*tasks: Task, **plan: Any) -> dict[str, Task]:
    expanded = expand(Plan([Task("find", {"shell": "true"}), *tasks], **plan))
    graph.check_plan(expanded)
    return {task.key: task for task in expanded.tasks}


def test_a_plan_without_any_is_the_same_plan() -> None:
    plan = Plan([Task("a", {"shell": "true"})])

    assert expand(plan) is plan


def test_variants_do_the_work_and_the_task_takes_over() -> None:
    expanded = parts(
        Task("fix", AGENT, needs=["find"], variants=[{}, {"model": "m"}, {"agent": "codex"}], max_attempts=2),
        Task("after", {"shell": "echo {{ needs.fix.output }}"}, needs=["fix"]),
    )

    assert list(expanded) == ["find", "fix/1", "fix/2", "fix/3", "fix", "after"]
    assert [expanded[f"fix/{number}"].run for number in (1, 2, 3)] == [
        AGENT,
        {**AGENT, "model": "m"},
        {"agent": "codex", "prompt": AGENT["prompt"], "secrets": ["KEY"]},
    ]
    assert (expanded["fix/1"].needs, expanded["fix/1"].max_attempts, expanded["fix/1"].parent) == (["find"], 2, "fix")
    assert expanded["fix"].needs == ["fix/1", "fix/2", "fix/3"]


def test_the_loop_surrounds_agents_only_and_those_that_want_it() -> None:
    loop = Supervision(assess={"agent": "claude"}, analyze={"agent": "codex"})
    expanded = parts(
        Task("fix", AGENT, needs=["find"]),
        Task("plain", {"shell": "true"}),
        Task("alone", AGENT, needs=["find"], supervised=False),
        supervision=loop,
    )

    assert list(expanded) == ["find", "fix/assess", "fix/work", "fix", "plain", "alone"]
    assert expanded["fix/assess"].needs == ()
    assert expanded["fix/work"].needs == ["find", "fix/assess"]
    assert expanded["fix"].needs == ["fix/work"]
    assert expanded["fix"].run["agent"] == "codex"
    assert expanded["fix"].run["prompt"] == "Mend {{ '{{' }} needs.find.output }}"


@pytest.mark.parametrize(
    ("variants", "field"),
    [
        (1, "tasks.fix.variants"),
        (17, "tasks.fix.variants"),
        (True, "tasks.fix.variants"),
        ("two", "tasks.fix.variants"),
        ([{"model": "m"}], "tasks.fix.variants"),
        ([{}, 5], "tasks.fix.variants"),
        ([{}, {"colour": "red"}], "tasks.fix.variants"),
        ([{}, {"agent": "custom"}], "tasks.fix.variants"),
        ([{}, {"shell": "true"}], "tasks.fix.variants"),
    ],
)
def test_variants_that_make_no_job_are_refused_with_the_task(variants: Any, field: str | None) -> None:
    with refuses(PlanError, field=field):
        parts(Task("fix", AGENT, needs=["find"], variants=variants))


def test_a_part_cannot_have_the_key_of_another_task() -> None:
    with refuses(PlanError, field="tasks.fix.variants"):
        parts(Task("fix", AGENT, needs=["find"], variants=2), Task("fix/1", {"shell": "true"}))


@pytest.mark.parametrize(
    "value", [5, {}, {"agent": "claude", "prompt": "x"}, {"shell": "true"}, "two words!", "custom"]
)
def test_who_supervises_is_an_agent(value: Any) -> None:
    with pytest.raises(Refused):
        check_supervisor(value, "assess")
    with pytest.raises(Refused):
        supervision_of({"judge": "claude"})


def test_another_agents_arguments_are_not_taken_over() -> None:
    assert apply_overlay(AGENT, {"agent": "gemini"}) == {
        "agent": "gemini",
        "prompt": AGENT["prompt"],
        "secrets": ["KEY"],
    }
    assert apply_overlay(AGENT, {"args": ["--slow"]})["args"] == ["--slow"]


GOOD = {"strategy": "s", "subtasks": [{"key": "a", "title": "A", "prompt": "do a"}]}


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        '{"strategy": "s"}',
        'Well: {"strategy": "s", "risks": null} - so be it',
        '```json\n{"strategy": "s"}\n```',
        '```\n{"strategy": "first"}\n```\nBetter:\n```json\n{"strategy": "s"}\n```',
    ],
)
def test_an_assessment_is_found_in_what_surrounds_it(answer: Any) -> None:
    assert read_assessment(answer).strategy == "s"


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (None, None),
        ("no", None),
        ("[1]", None),
        ("{" * 10_000, None),
        ({}, "strategy"),
        ({**GOOD, "risks": "many"}, "risks"),
        ({**GOOD, "subtasks": {"key": "a"}}, "subtasks"),
        ({**GOOD, "subtasks": [{"key": "a b", "title": "t", "prompt": "p"}]}, None),
        ({**GOOD, "subtasks": [GOOD["subtasks"][0]] * 2}, None),  # type: ignore[index]
        ({**GOOD, "subtasks": [GOOD["subtasks"][0]] * 11}, "subtasks"),  # type: ignore[index]
        ({**GOOD, "subtasks": [{"key": "a", "title": "t", "prompt": "p", "needs": ["b"]}]}, None),
        ({**GOOD, "subtasks": [{"key": "a", "title": "t"}]}, "prompt"),
    ],
)
def test_what_is_no_assessment_is_refused_in_a_sentence(answer: Any, field: str | None) -> None:
    with refuses(Refused, field=field):
        read_assessment(answer)


def test_an_analysis_has_a_verdict_and_a_reason() -> None:
    assert read_analysis('{"verdict": "punted", "why": "too big"}').verdict == "punted"
    for answer in ({"verdict": "yes", "why": "x"}, {"verdict": "done"}):
        with pytest.raises(Refused):
            read_analysis(answer)


def test_a_question_is_answered_or_it_is_said_why_it_is_not() -> None:
    assert read_answer('I say: {"answer": "blue"}').to_json() == {"answer": "blue"}
    assert read_answer({"cannot": "taste"}).to_json() == {"cannot": "taste"}


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ("blue", None),
        ({}, None),
        ({"answer": "a", "cannot": "b"}, None),
        ({"answer": " "}, "answer"),
        ({"answer": 5}, "answer"),
        ({"answer": "x" * 20_001}, "answer"),
        ({"cannot": None}, "cannot"),
    ],
)
def test_what_is_no_answer_is_refused_in_a_sentence(answer: Any, field: str | None) -> None:
    with refuses(Refused, field=field):
        read_answer(answer)
