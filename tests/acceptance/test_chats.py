"""Test a plan with a chat, through real workers and a stand-in for the provider, on both databases."""

from __future__ import annotations

import os
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from coordination.domain.jobs import ChatCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.store.reports.money.spending import spending
from tests.support.fleet import Fleet
from tests.support.model_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Broken,
    ModelServer,
    ToolUse,
    running_model_server,
)
from tests.support.processes import until
from tests.support.speed import patience
from workers.runners import orphan_reaper

TOOLS = Path(__file__).parents[1] / "support" / "tool_server.py"
SCHEMA = {"type": "object", "properties": {"findings": {"type": "integer"}}, "required": ["findings"]}


def chat(server: ModelServer, prompt: str, **more: object) -> ChatCall:
    return ChatCall("openai:gpt-5-mini", prompt, url=f"{server.url}/v1", **more)  # type: ignore[arg-type]


@pytest.mark.smoke
def test_a_plan_with_a_chat_uses_what_came_before_and_its_bill_is_what_was_served(fleet: Fleet) -> None:
    answers = [ToolUse("add", {"a": 1, "b": 1}), ToolUse("final_result", {"findings": 2})]
    with running_model_server(answers) as server:
        fleet.worker("-c", "2")
        run = fleet.submit(
            Task("find", {"shell": "echo the door and the lamp"}),
            Task(
                "count",
                chat(
                    server,
                    "How many are {{ needs.find.output }}?",
                    schema=SCHEMA,
                    tools=[{"command": [sys.executable, str(TOOLS)]}],
                ),
                needs=["find"],
            ),
            Task("tell", {"shell": "echo {{ needs.count.output.findings }}"}, needs=["count"]),
        )

        assert run.wait(timeout=60) is RunState.COMPLETED

    assert run.task("count").output == {"findings": 2}
    assert run.task("tell").output == "2"
    assert "How many are the door and the lamp?" in str(server.requests[0]["messages"])
    called = fleet.await_event(run, EventType.TOOL_CALL, key="count")
    assert called.payload["tool"] == "add"
    with fleet.co.runtime.store.read() as tx:
        (billed,) = spending(tx, fleet.co.runtime.workspace_id, by="model")
    assert billed.key == "gpt-5-mini"
    assert (billed.input_tokens, billed.output_tokens) == (2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
    # a quarter of a dollar a million in, two dollars out, by the built-in price list
    paid = (Decimal("0.25") * billed.input_tokens + 2 * billed.output_tokens) / 1_000_000
    assert (billed.cost_usd, billed.unpriced_calls) == (paid, 0)


def test_a_chat_that_waits_is_canceled_within_two_seconds_and_what_it_used_is_kept(fleet: Fleet) -> None:
    with running_model_server([ToolUse("add", {"a": 1, "b": 1}), Broken("Well, ", "hang")]) as server:
        fleet.worker("-c", "2")
        run = fleet.submit(Task("ask", chat(server, "Well?", tools=[{"command": [sys.executable, str(TOOLS)]}])))
        assert server.begun.wait(patience(30))

        began = time.monotonic()
        run.cancel()
        assert server.left.wait(patience(10))
        gone = time.monotonic() - began
        assert run.wait(timeout=30) is RunState.CANCELED

        (task,) = run.tasks()
        (attempt,) = until(lambda: [one for one in task.attempts() if one.outcome is not None], what="its end")
    assert gone < patience(2)
    assert attempt.outcome is Outcome.CANCELED
    with fleet.co.runtime.store.read() as tx:
        (billed,) = spending(tx, fleet.co.runtime.workspace_id, by="model")
    assert billed.input_tokens == INPUT_TOKENS
    assert orphan_reaper.find([os.fsencode(f"COORD_TASK_ID={task.id}")]) == []


def test_a_provider_that_refuses_for_good_ends_it_and_a_busy_one_does_not(fleet: Fleet) -> None:
    with running_model_server([400, 503, "Fine"]) as server:
        fleet.worker("-c", "2")
        refused = fleet.submit(Task("ask", chat(server, "x"), max_attempts=3))
        assert refused.wait(timeout=60) is RunState.FAILED
        busy = fleet.submit(Task("ask", chat(server, "x")))

        assert busy.wait(timeout=60) is RunState.COMPLETED

    (first,), (second,) = refused.tasks(), busy.tasks()
    assert (first.record.attempt, first.record.state) == (1, TaskState.FAILED)
    assert (second.record.deferrals, second.record.failures) == (1, 0)


@pytest.mark.expiring
def test_what_a_killed_worker_left_of_a_chat_is_gone_and_it_runs_again(fleet: Fleet) -> None:
    answers = [ToolUse("sh", {"command": "echo $$ > pid; exec sleep 600"}), "Again"]
    with running_model_server(answers) as server:
        worker = fleet.worker("-c", "1")
        run = fleet.submit(Task("ask", chat(server, "x", tools=[{"command": [sys.executable, str(TOOLS)]}])))
        pid = int(fleet.await_file("pid"))

        worker.kill()
        fleet.worker("-c", "1")

        assert run.wait(timeout=60) is RunState.COMPLETED
    assert not Path(f"/proc/{pid}").exists()
    assert run.task("ask").output == "Again"
