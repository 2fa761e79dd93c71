"""Test warnings of a plan: agents that interfere, missing programs and keys, and no false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from coordination.domain.plans.plan_warnings import PlanWarning, first_word, warnings_of
from coordination.domain.plans.plans import Concurrency, Defaults, Plan, Task

AGENT = {"agent": "claude", "prompt": "do it"}
HERE = {"git", "claude", "make", "pytest"}


def warned(*tasks: Task, variables: Sequence[str] = (), **plan: Any) -> list[PlanWarning]:
    return list(warnings_of(Plan(tasks, **plan), has_program=HERE.__contains__, variables=variables))


def codes(*tasks: Task, **plan: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.code.value, one.tasks) for one in warned(*tasks, **plan)]


def test_agents_that_no_need_orders_are_warned_of_in_one_folder() -> None:
    assert codes(Task("a", AGENT), Task("b", AGENT), Task("c", {"shell": "make"})) == [
        ("agents_in_one_folder", ("a", "b"))
    ]
    assert codes(Task("a", AGENT), Task("x", {"shell": "make"}, needs=["a"]), Task("b", AGENT)) == [
        ("agents_in_one_folder", ("a", "b"))
    ]


@pytest.mark.parametrize(
    ("tasks", "plan"),
    [
        ([Task("a", AGENT), Task("b", AGENT, needs=["a"])], {}),
        ([Task("a", AGENT), Task("x", {"shell": "make"}, needs=["a"]), Task("b", AGENT, needs=["x"])], {}),
        ([Task("a", AGENT), Task("b", AGENT)], {"defaults": Defaults(checkout="git-worktree")}),
        ([Task("a", AGENT, checkout="git-worktree"), Task("b", AGENT)], {}),
        ([Task("a", AGENT, workdir="x"), Task("b", AGENT, workdir="y")], {}),
        ([Task("a", AGENT), Task("b", AGENT)], {"concurrency": Concurrency(project=1)}),
        ([Task("a", AGENT, concurrency_key="k"), Task("b", AGENT, concurrency_key="k")], {}),
        (
            [Task("a", AGENT, agent="ann"), Task("b", AGENT, agent="ann")],
            {"concurrency": Concurrency(agents={"ann": 1})},
        ),
        ([Task("a", AGENT), Task("b", {"shell": "make"})], {}),
    ],
)
def test_agents_that_never_meet_are_not_warned_of(tasks: list[Task], plan: dict[str, Any]) -> None:
    assert codes(*tasks, **plan) == []


def test_many_agents_are_looked_at_quickly_and_named_in_short() -> None:
    (one,) = warned(*(Task(f"t{number}", AGENT) for number in range(5_000)))

    assert one.sentence.startswith("t0, t1, t2 and 4,997 more tasks may work in the project's folder at the same time")
    assert codes(Task("t0", AGENT), *(Task(f"t{n}", AGENT, needs=[f"t{n - 1}"]) for n in range(1, 5_000))) == []


def test_programs_that_are_not_here_are_warned_of_once_each() -> None:
    warnings = warned(
        Task("a", {"shell": "ruff check ."}),
        Task("b", {"shell": "ruff format ."}),
        Task("c", {"agent": "codex", "prompt": "x"}),
        Task("d", {"agent": "custom", "prompt": "x", "command": ["aider", "{prompt}"]}, needs=["c"]),
        Task("e", {"shell": "make"}, gates=["tox -q"]),
    )

    assert [(one.name, one.tasks) for one in warnings] == [
        ("ruff", ("a", "b")),
        ("codex", ("c",)),
        ("aider", ("d",)),
        ("tox", ("e",)),
    ]
    assert warnings[0].sentence == "The program ruff, which a and b start, is not installed here (PATH)"


def test_gates_of_the_plan_are_those_of_agents_and_a_setup_may_install_what_they_need() -> None:
    setup = {"kind": "git-worktree", "setup": "npm ci"}

    assert codes(Task("a", AGENT), Task("b", {"shell": "make"}), gates=["tox"]) == [("program_missing", ("a",))]
    assert codes(Task("a", AGENT, checkout=setup), gates=["tox"]) == []


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("make check", "make"),
        ("  pytest -q\nmake", "pytest"),
        ("/usr/bin/env python", "/usr/bin/env"),
        ("make;true", "make"),
        ("./build.sh", None),
        ("bin/build", None),
        ("cd src && make", None),
        ("[ -e x ]", None),
        ("X=1 make", None),
        ("$TOOL run", None),
        ("'my tool' x", None),
        ("(make)", None),
        ("# comment\nmake", None),
        ("build() { make; }; build", None),
        ("build\nbuild () {\nmake; }", None),
        ("{{ needs.a.output }} x", None),
        ("true", None),
        ("", None),
    ],
)
def test_the_first_word_is_a_program_where_that_is_certain(command: str, program: str | None) -> None:
    assert first_word(command) == program


def test_keys_that_are_not_here_are_warned_of_by_name() -> None:
    agent = {**AGENT, "secrets": ["SHOP_KEY", "OTHER"]}

    (warnings,) = warned(Task("a", agent), variables=["OTHER"])

    assert (warnings.code.value, warnings.name, warnings.tasks) == ("key_missing", "SHOP_KEY", ("a",))
    assert warnings.hint == "Set it in the environment of the workers before they start"
