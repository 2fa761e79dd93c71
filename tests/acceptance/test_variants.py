"""Test variants that race: the first one wins, the others end within seconds, and the usage of all is counted."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.support.fleet import Fleet, alive
from tests.support.processes import until
from tests.support.speed import patience

pytestmark = pytest.mark.shared_worker

SPENDS = """echo '{"model": "m", "input_tokens": 5, "output_tokens": 1, "cost_usd": "0.25"}' >> "$COORD_COSTS"; """


@pytest.mark.smoke
def test_the_first_to_pass_wins_and_the_others_are_gone_within_two_seconds(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    slow = {"shell": SPENDS + 'echo $$ > "pid.${COORD_TASK_KEY##*/}"; sleep 600'}
    quick = {
        "shell": SPENDS
        + "until [ -s pid.1 ] && [ -s pid.3 ]; do sleep 0.1; done; date +%s.%N > won; echo the quick one"
    }
    run = fleet.submit(
        Task("fix", {"shell": "false"}, variants=[slow, quick, slow]),
        Task("after", {"shell": "echo {{ needs.fix.output }}"}, needs=["fix"]),
    )

    assert run.wait(timeout=60) is RunState.COMPLETED

    won = float(fleet.file("won").read_text())
    pids = [int(fleet.file(f"pid.{number}").read_text()) for number in (1, 3)]
    while any(alive(pid) for pid in pids):
        assert time.time() < won + patience(10)
        time.sleep(0.02)
    assert run.task("after").output == "the quick one"
    assert {task.key: task.state.value for task in run.tasks()} == {
        "fix/1": "canceled", "fix/2": "completed", "fix/3": "canceled", "fix": "completed", "after": "completed",
    }  # fmt: skip
    decided = [event.payload for event in run.task("fix").events() if event.payload.get("decision")]
    assert decided == [{"decision": "winner", "winner": "fix/2", "why": "fix/2 was the first of 3 to pass"}]
    until(lambda: run.cost == Decimal("0.75"), what="what all three have spent")


def test_none_that_passes_fails_the_task_and_a_retry_lets_all_of_them_run_again(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    run = fleet.submit(Task("fix", {"shell": "test -e now"}, variants=2))
    assert run.wait(timeout=60) is RunState.FAILED
    assert "no variant of fix completed: fix/1 failed, fix/2 failed" in (run.task("fix").error or "")
    fleet.file("now").touch()

    run.task("fix").retry()

    assert run.wait(timeout=60) is RunState.COMPLETED
    assert run.task("fix").state == "completed"


def test_canceling_the_task_cancels_its_variants(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    run = fleet.submit(Task("fix", {"shell": "touch began; sleep 600"}, variants=2))
    fleet.await_file_made("began")

    run.task("fix").cancel()

    assert run.wait(timeout=30) is RunState.CANCELED
    assert {task.state.value for task in run.tasks()} == {"canceled"}
