"""Test the authority of reported tasks on real workers: their folder, values and programs stay within the job's."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.acceptance.test_reports import COORD
from tests.support.fleet import Fleet

pytestmark = pytest.mark.shared_worker


def reporting(fleet: Fleet, name: str, *tasks: dict[str, Any]) -> str:
    """Return a command that reports these tasks one by one, and saves the responses in *name*.said."""
    lines = []
    for number, task in enumerate(tasks):
        fleet.file(f"{name}.{number}.json").write_text(json.dumps([task]))
        lines.append(f"{COORD} task discovered --file {fleet.file(f'{name}.{number}.json')} >> {name}.said 2>&1")
    return "\n".join([*lines, "true"])


@pytest.mark.smoke
def test_reports_beyond_the_rights_of_their_job_add_nothing(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    outside = fleet.folder / "outside"
    outside.mkdir()
    touch = {"shell": "touch touched"}
    agent = {"agent": "custom", "prompt": "x", "command": ["touch", str(outside / "touched")]}
    job = reporting(
        fleet,
        "a",
        {"key": "absolute", "run": touch, "workdir": str(outside)},
        {"key": "dots", "run": touch, "workdir": "../outside"},
        {"key": "agent", "run": agent},
        {"key": "secret", "run": {**agent, "secrets": ["HOME"]}},
        {"key": "env", "run": {"shell": "true", "env": {"LD_PRELOAD": "x.so"}}},
    )
    run = fleet.submit(Task("a", {"shell": job}))

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert [task.key for task in run.tasks()] == ["a"]
    assert list(outside.iterdir()) == []
    output = fleet.file("a.said").read_text()
    assert output.count("outside of") == 2
    assert output.count("the job that reports it is not one") == 2
    assert "Traceback" not in output


def test_a_folder_that_became_a_link_is_left_alone_at_the_claim(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    outside = fleet.folder / "elsewhere"
    outside.mkdir()
    fleet.file("sub").mkdir()
    job = reporting(fleet, "a", {"key": "later", "run": {"shell": "touch touched"}, "workdir": "sub", "needs": ["a"]})
    swap = f"rmdir sub && ln -s {outside} sub"
    run = fleet.submit(Task("a", {"shell": f"{job}\n{swap}"}))

    assert run.wait(timeout=60) is RunState.FAILED

    (attempt,) = run.task("later").attempts()
    assert "outside of" in attempt.error
    assert list(outside.iterdir()) == []
    assert os.path.islink(fleet.file("sub"))  # noqa: PTH114 - the job created the link


def test_an_agent_lends_its_own_program_only_and_what_is_found_finds_no_more(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    other = {"agent": "custom", "prompt": "x", "command": ["touch", "touched"]}
    nested = reporting(fleet, "b", {"key": "c", "run": other}, {"key": "d", "run": {"shell": "true"}, "workdir": "/"})
    script = fleet.file("agent")
    job = reporting(fleet, "a", {"key": "other", "run": other}, {"key": "b", "run": {"shell": nested}})
    script.write_text(f"#!/bin/sh\ncat > /dev/null\n{job}\n")
    script.chmod(0o755)
    run = fleet.submit(Task("a", AgentCall("custom", "Look", command=[str(script)])))

    assert run.wait(timeout=60) is RunState.COMPLETED

    assert sorted(task.key for task in run.tasks()) == ["a", "b"]
    assert not fleet.file("touched").exists()
    assert "run.command differs" in fleet.file("a.said").read_text()
    assert "the job that reports it is not one" in fleet.file("b.said").read_text()
