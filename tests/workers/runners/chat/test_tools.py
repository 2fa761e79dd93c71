"""Test tools of chats with real MCP programs and real HTTP: what they leave behind, and how they end."""

from __future__ import annotations

import pytest

from coordination.domain.jobs import OURS
from coordination.domain.tasks.attempts import Outcome
from tests.support.chats import CALL, RETURNED, SCHEMA, SERVER, TOOLS, free_port
from tests.support.jobs import Bench, claim_of
from tests.support.model_server import (
    INPUT_TOKENS,
    ToolUse,
)
from workers.runners import environment
from workers.runners.base import Control, ReportAddress
from workers.runners.chat.servers import ToolServers
from workers.runners.secret_masking import Secrets


@pytest.mark.parametrize(("bodies", "opened"), [([], 0), ([SERVER], 0), ([OURS], 1)])
def test_the_socket_of_reports_is_opened_for_our_own_server_alone(bench: Bench, bodies, opened) -> None:
    addresses: list[ReportAddress] = []

    def offer() -> ReportAddress:
        addresses.append(ReportAddress("unix:/nowhere", "token", None))
        return addresses[-1]

    claim = claim_of({"chat": "openai:m-1", "prompt": "x"})
    with (
        Control(scratch=bench.scratch) as control,
        environment.Scratch(bench.scratch, claim) as scratch,
        ToolServers(bench.runners.launcher, bodies, Secrets(environ={})) as servers,
    ):
        control.offer_reports(offer)
        servers.ends_at_once = True
        servers.start(claim, control, env={}, scratch=scratch)

    assert len(addresses) == opened


class TestTools:
    def test_it_uses_them_until_it_has_its_answer(self, provide) -> None:
        with provide([ToolUse("add", {"a": 1, "b": 2}), ToolUse("fail", {})], "It is 3") as provider:
            result = provider.run(tools=[SERVER])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert [used.input_tokens for used in result.usage] == [2 * INPUT_TOKENS]
        assert [report["tool"] for report in provider.told(CALL)] == ["add", "fail"]
        by_id = {report["id"]: report for report in provider.told(RETURNED)}
        added, failed = (by_id[report["id"]] for report in provider.told(CALL))
        assert added["output"] == "3"
        assert failed["failed"]
        assert "it is broken" in failed["output"]
        last = provider.server.requests[1]["messages"]
        assert next(message["content"] for message in last if message["role"] == "tool") == "3"
        assert "tools are ready" in result.log

    def test_their_names_are_such_as_every_provider_takes(self, provide) -> None:
        with provide(ToolUse("odd_name_with_signs", {}), "ok") as provider:
            provider.run(tools=[SERVER, SERVER])

        names = [tool["function"]["name"] for tool in provider.server.requests[0]["tools"]]
        assert "odd_name_with_signs" in names
        assert "add_2" in names
        assert provider.told(RETURNED)[0]["output"] == "odd"

    def test_a_tool_that_there_is_not_and_arguments_that_are_none_are_told_to_the_model(self, provide) -> None:
        with provide(ToolUse("nothing", {}), ToolUse("add", {"a": "x"}), "I see") as provider:
            result = provider.run(tools=[SERVER])

        assert result.output == "I see"
        assert [report.get("failed") for report in provider.told(RETURNED)] == [True, True]
        assert "There is no tool nothing" in provider.told(RETURNED)[0]["output"]

    def test_a_form_is_filled_in_after_them(self, provide) -> None:
        with provide(ToolUse("add", {"a": 1, "b": 2}), ToolUse("final_result", {"n": 3})) as provider:
            assert provider.run(tools=[SERVER], schema=SCHEMA).output == {"n": 3}

    def test_a_loop_without_end_is_bounded_and_paid_for(self, provide) -> None:
        with provide(*[ToolUse("add", {"a": 1, "b": 1})] * 9) as provider:
            result = provider.run(tools=[SERVER], settings={"max_steps": 3})

        assert (result.outcome, result.error) == (
            Outcome.FAILED,
            "openai:m-1 had no answer after 3 steps (settings.max_steps)",
        )
        assert [used.input_tokens for used in result.usage] == [3 * INPUT_TOKENS]

    def test_they_get_what_they_are_given_and_no_key(self, provide, monkeypatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-model-0123456789")
        monkeypatch.setenv("TOOL_TOKEN", "tool-0123456789")
        uses = [ToolUse("show", {"name": name}) for name in ("OPENAI_API_KEY", "TOOL_TOKEN", "MINE", "COORD_TASK_KEY")]
        with provide(uses, "ok") as provider:
            provider.run(tools=[SERVER | {"secrets": ["TOOL_TOKEN"]}], env={"MINE": "mine"}, secrets=["OPENAI_API_KEY"])

            values = [values["output"] for values in provider.told(RETURNED)]
            sent = [message["content"] for message in provider.server.requests[1]["messages"][-4:]]
        assert sorted(sent) == ["", "fix", "mine", "tool-0123456789"]
        assert sorted(values) == ["", "***", "fix", "mine"]

    def test_what_they_leave_behind_is_ended(self, provide, bench: Bench) -> None:
        with provide(
            ToolUse("sh", {"command": "setsid sleep 600 >/dev/null & sleep 601 >/dev/null & echo done"}), "ok"
        ) as provider:
            result = provider.run(tools=[SERVER])

        assert result.output == "ok"
        assert bench.left_behind() == []

    def test_their_endless_output_is_cut(self, provide) -> None:
        with provide(ToolUse("sh", {"command": "head -c 1000000 /dev/zero | tr '\\0' x"}), "ok") as provider:
            provider.run(tools=[SERVER], control={"output_limit": 10_000})

        assert "990,000 bytes left out" in provider.server.requests[1]["messages"][-1]["content"]

    def test_a_server_that_dies_ends_the_attempt_and_says_how(self, provide) -> None:
        with provide(ToolUse("sh", {"command": "kill -9 $PPID"}), "never") as provider:
            result = provider.run(tools=[SERVER])

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert "The tool server" in result.error
        assert "ended" in result.error
        assert len(result.usage) == 1

    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            (["no-such-server"], "no-such-server is not installed"),
            (["sh", "-c", "echo no such option >&2; exit 3"], "The tool server sh ended"),
            (["sh", "-c", "echo hello; exec sleep 600"], "The tool server sh did not answer within 1 s"),
            (["sh", "-c", "head -c 9000000 /dev/zero; exec sleep 600"], "The tool server sh ended"),
        ],
    )
    def test_a_server_that_is_none_is_said_so(self, provide, bench: Bench, monkeypatch, command, sentence) -> None:
        from workers.runners.chat import tools

        monkeypatch.setattr(tools, "_CONNECT_SECONDS", 1)
        with provide("never") as provider:
            result = provider.run(tools=[{"command": command}])

        assert result.outcome is Outcome.FAILED
        assert sentence in result.error
        assert not provider.server.requests
        assert bench.left_behind() == []

    def test_a_server_may_be_reached_over_http(self, provide, processes, monkeypatch) -> None:
        monkeypatch.setenv("TOOL_TOKEN", "tool-0123456789")
        port = free_port()
        running = processes.start_python(TOOLS, str(port))
        running.wait_for_port(port)
        with provide(ToolUse("add", {"a": 1, "b": 2}), "It is 3") as provider:
            result = provider.run(tools=[{"url": f"http://127.0.0.1:{port}/mcp", "secrets": ["TOOL_TOKEN"]}])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert [report["output"] for report in provider.told(RETURNED)] == ["3"]

    def test_a_server_that_is_nowhere_is_said_so(self, provide) -> None:
        with provide("never") as provider:
            result = provider.run(tools=[{"url": "http://127.0.0.1:9/mcp"}])

        assert result.outcome is not Outcome.COMPLETED
        assert "127.0.0.1:9" in result.error
        assert not provider.server.requests
