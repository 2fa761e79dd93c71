"""Test a real coding agent from the registry through a real worker, against a stand-in for its provider."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.events import EventType
from coordination.domain.tasks.tasks import RunState, TaskState
from coordination.store.reports.money.spending import spending
from tests.support.fleet import Fleet
from tests.support.model_server import INPUT_TOKENS, OUTPUT_TOKENS, ModelServer, ToolUse, running_model_server
from tests.support.npm import CLAUDE, npm_program

MODEL = "claude-sonnet-4-5"


@pytest.fixture(scope="session")
def claude(tmp_path_factory: pytest.TempPathFactory) -> str:
    shared = tmp_path_factory.getbasetemp()
    return npm_program(CLAUDE, "claude", (shared.parent if "gw" in shared.name else shared) / "programs")


def provider(server: ModelServer, folder: Path) -> dict[str, str]:
    """Return a worker's environment for the provider, with a key that is not valid anywhere."""
    (folder / "user").mkdir(exist_ok=True)
    return {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": "sk-of-nobody",
        "HOME": str(folder / "user"),
        "COORD_LEASE_TTL": "30s",
    }


@pytest.mark.network
@pytest.mark.timeout(400)
class TestClaudeCode:
    def test_it_works_with_tools_and_its_bill_is_what_the_provider_served(
        self, fleet: Fleet, claude: str, tmp_path: Path
    ) -> None:
        answers = [ToolUse("Bash", {"command": "echo mended > it", "description": "mend"}), "It is mended"]
        with running_model_server(answers) as server:
            fleet.worker("-c", "2", **provider(server, tmp_path))
            run = fleet.submit(
                Task("find", {"shell": "echo the door"}),
                Task(
                    "mend",
                    AgentCall(
                        "claude",
                        "Mend {{ needs.find.output }}",
                        model=MODEL,
                        command=[claude],
                        args=["--allowedTools", "Bash"],
                    ),
                    needs=["find"],
                ),
                Task("tell", {"shell": "echo {{ needs.mend.output }}"}, needs=["mend"]),
            )

            assert run.wait(timeout=120) is RunState.COMPLETED

        assert run.task("tell").output == "It is mended"
        assert fleet.file("it").read_text() == "mended\n"
        assert not server.answers
        prompts = [str(request["messages"][0]["content"]) for request in server.requests]
        assert all("Mend the door" in prompt for prompt in prompts)
        of_mend = [event for event in run._events_after("0.0") if event.key == "mend"]
        called, returned = (
            next(event.payload for event in of_mend if event.type is type_)
            for type_ in (EventType.TOOL_CALL, EventType.TOOL_RESULT)
        )
        assert called["tool"] == "Bash"
        assert "echo mended" in called["input"]
        assert returned["id"] == called["id"]
        with fleet.co.runtime.store.read() as tx:
            groups = spending(tx, fleet.co.runtime.workspace_id, by="model")
        (billed,) = [group for group in groups if group.key == MODEL]
        # Its two turns, and the program's own requests.
        assert server.served >= 2
        read, written = server.served * INPUT_TOKENS, server.served * OUTPUT_TOKENS
        assert (billed.input_tokens, billed.output_tokens) == (read, written)
        # three dollars a million in, fifteen out: the agent's own price list
        assert (billed.cost_usd, billed.unpriced_calls) == (Decimal(3 * read + 15 * written) / 1_000_000, 0)

    def test_it_asks_and_goes_on_with_the_answer_in_the_same_conversation(
        self, fleet: Fleet, claude: str, tmp_path: Path
    ) -> None:
        asks = ToolUse("Bash", {"command": "coord task ask 'Which colour?'", "description": "ask"})
        with running_model_server([asks, "I wait", "It is blue"]) as server:
            fleet.worker("-c", "2", **provider(server, tmp_path))
            call = AgentCall("claude", "Paint it", model=MODEL, command=[claude], args=["--allowedTools", "Bash"])
            run = fleet.submit(Task("paint", call))
            fleet.await_event(run, EventType.BLOCKED, key="paint", within=120)

            assert run.task("paint").answer("blue")

            assert run.wait(timeout=120) is RunState.COMPLETED
        task = run.task("paint")
        assert (task.output, task.record.attempt, task.record.failures) == ("It is blue", 2, 0)
        *before, last = server.requests[-1]["messages"]
        assert "Paint it" in str(before[0]["content"])
        assert "Which colour?" in str(before)
        assert "You asked: Which colour?\nAnswer: blue" in str(last["content"]).replace("\\n", "\n")

    def test_a_provider_that_refuses_for_good_ends_it_and_a_busy_one_does_not(
        self, fleet: Fleet, claude: str, tmp_path: Path
    ) -> None:
        call = AgentCall("claude", "Mend it", model=MODEL, command=[claude])
        with running_model_server([400]) as server:
            worker = fleet.worker("-c", "2", **provider(server, tmp_path))
            run = fleet.submit(Task("mend", call, max_attempts=3))
            assert run.wait(timeout=60) is RunState.FAILED
            (task,) = run.tasks()
            assert (task.record.attempt, task.record.state) == (1, TaskState.FAILED)
            worker.stop()
        with running_model_server([529, 529, 529, "Mended"]) as server:
            fleet.worker("-c", "2", **provider(server, tmp_path))
            run = fleet.submit(Task("mend", call))

            assert run.wait(timeout=120) is RunState.COMPLETED

            (task,) = run.tasks()
            assert (task.record.deferrals, task.record.failures) == (1, 0)
