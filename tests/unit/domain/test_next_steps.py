"""Test the table of next steps: every situation has commands, and all of them exist."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from coordination.cli.main import app
from coordination.domain.tasks.next_steps import Situation, join_steps, situation_of_error, steps

NAMES = {
    "task": "fix",
    "need": "build",
    "run": "nightly",
    "project": "shop",
    "workspace": "team",
    "limit": "key",
    "value": "deploy=N",
    "models": ["--models", "deny=null"],
}


@pytest.mark.parametrize("situation", Situation)
def test_each_situation_ends_with_a_command_that_there_is_with_its_options(situation: Situation) -> None:
    lines = steps(situation, **NAMES)

    assert lines
    for step in lines:
        words = [word for word in shlex.split(step.command) if not re.match(r"[A-Z_]+=", word)]
        assert words.pop(0) == "coord"
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        names = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= names
        assert "{" not in step.command


def test_names_are_quoted_for_a_shell() -> None:
    (step,) = steps(Situation.QUESTION, task="it's; rm -rf ~")

    assert shlex.split(step.command) == ["coord", "tasks", "answer", "it's; rm -rf ~", "the answer"]


def test_a_name_that_looks_like_a_place_is_quoted_once() -> None:
    (step,) = steps(Situation.SLOT, project="fix {value}", limit="key", value="x; rm -rf ~")

    assert shlex.split(step.command)[3:] == ["fix {value}", "--key", "x; rm -rf ~"]


def test_the_command_that_goes_on_stands_at_the_end_of_the_sentence() -> None:
    assert join_steps(steps(Situation.FAILED, task="fix")).endswith("after fixing it: coord tasks retry fix")
    assert join_steps(()) == ""


@pytest.mark.parametrize(
    ("error", "situation"),
    [
        (None, Situation.FAILED),
        ("exit status 1: no tests ran", Situation.FAILED),
        ("gate 'make check' failed: exit status 2", Situation.GATE),
        ("its change conflicts with what others have merged to coord/x, in a.py, 4 times in a row", Situation.CONFLICT),
        ("claude is not installed where this worker looks for programs (PATH).", Situation.PROGRAM),
        ("The job's folder /x does not exist on this machine: make it", Situation.FOLDER),
        ("claude is not logged in where this worker runs: set A (it said: no)", Situation.LOG_IN),
        ("claude is not logged in with the account a on h: run there x (it said: no)", Situation.LOG_IN),
    ],
)
def test_what_was_in_the_way_of_a_job_is_known_by_its_error(error: str | None, situation: Situation) -> None:
    assert situation_of_error(error) is situation
