"""Chats run as jobs. The provider is a stand-in; pydantic-ai, loop, sockets and tools' programs are real."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.attempts import Outcome, Result
from coordination.domain.chat import ChatCall
from coordination.domain.events import EventType
from tests.support.jobs import Bench
from tests.support.model_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Answer,
    Broken,
    ModelServer,
    ToolUse,
    running_model_server,
)
from workers.runners import stragglers
from workers.runners.base import StopReason
from workers.runners.chat.providers import KNOWN, access

TOOLS = Path(__file__).parents[2] / "support" / "tool_server.py"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SERVER = {"command": [sys.executable, str(TOOLS)]}
SAID, CALL, RETURNED, STARTED = EventType.PROGRESS, EventType.TOOL_CALL, EventType.TOOL_RESULT, EventType.STARTED


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Provider:
    """The stand-in, and jobs that are held with it."""

    def __init__(self, bench: Bench, server: ModelServer) -> None:
        self.bench = bench
        self.server = server
        self.events: list[tuple[EventType, dict[str, Any]]] = []

    def job(self, **more: Any) -> dict[str, Any]:
        return {"chat": "openai:m-1", "prompt": "How is it?", "url": f"{self.server.url}/v1", **more}

    def run(self, *, control: dict[str, Any] | None = None, claim: dict[str, Any] | None = None, **more: Any) -> Result:
        return self.start(control=control, claim=claim, **more).end()

    def start(self, *, control: dict[str, Any] | None = None, claim: dict[str, Any] | None = None, **more: Any) -> Any:
        heard = {"on_event": lambda type_, payload: self.events.append((type_, payload))}
        return self.bench.start(self.job(**more), control=heard | (control or {}), **(claim or {}))

    def told(self, type_: EventType) -> list[dict[str, Any]]:
        return [payload for found, payload in self.events if found is type_]


@pytest.fixture
def provide(bench: Bench) -> Iterator[Any]:
    @contextmanager
    def providing(*answers: Answer) -> Iterator[Provider]:
        with running_model_server(answers) as server:
            yield Provider(bench, server)

    return providing


class TestAnswers:
    def test_its_answer_its_usage_and_its_story(self, provide) -> None:
        with provide("It is fine") as provider:
            result = provider.run(system="You are terse", settings={"temperature": 0.5, "max_tokens": 99})

        assert (result.outcome, result.output, result.error, result.log) == (
            *(Outcome.COMPLETED, "It is fine", None),
            None,
        )
        (used,) = result.usage
        assert (used.model, used.input_tokens, used.output_tokens) == ("m-1", INPUT_TOKENS, OUTPUT_TOKENS)
        assert (used.cost_usd, used.extra) == (None, {"provider": "openai"})
        assert provider.events == [(STARTED, {"model": "openai:m-1"}), (SAID, {"text": "It is fine"})]
        (asked,) = provider.server.requests
        assert [message["role"] for message in asked["messages"]] == ["system", "user"]
        assert asked["messages"][1]["content"] == "How is it?"
        assert asked["temperature"] == 0.5
        assert 99 in (asked.get("max_tokens"), asked.get("max_completion_tokens"))

    def test_an_answer_without_bounds_is_cut_and_says_so(self, provide) -> None:
        with provide("x" * 50_000) as provider:
            result = provider.run(control={"output_limit": 1000})

        assert "… 49,000 bytes left out …" in result.output

    def test_a_flood_ends_the_attempt_before_it_fills_the_memory(self, provide) -> None:
        with provide(Broken("x", "flood")) as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert "more than 8,388,608 characters" in result.error

    def test_a_chat_that_takes_its_time_is_told_while_it_goes_on(self, provide, monkeypatch) -> None:
        from workers.runners.chat import conversation

        monkeypatch.setattr(conversation, "_TELL_EVERY", 0.0)
        with provide(Broken("First.\n\nSecond.\n\nTh", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(30)

            until_told = time.monotonic() + 10
            while not provider.told(SAID) and time.monotonic() < until_told:
                job.control.wait(timedelta(milliseconds=10))
            job.stop(StopReason.CANCELED)
            job.end()

        assert "".join(said["text"] for said in provider.told(SAID)).startswith("First.")

    def test_a_job_without_the_extra_says_how_to_get_it(self, provide, monkeypatch) -> None:
        monkeypatch.delitem(sys.modules, "workers.runners.chat.conversation", raising=False)
        monkeypatch.setitem(sys.modules, "pydantic_ai.direct", None)
        with provide("never") as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert 'pip install "coordination[chat]"' in result.error
        assert not provider.server.requests

    def test_a_provider_that_nobody_knows_is_named(self, bench: Bench) -> None:
        result = bench.run({"chat": "opanai:m", "prompt": "x"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "No runner holds chats with opanai. Did you mean 'openai'?" in result.error


class TestForms:
    def test_the_output_is_the_json_value(self, provide) -> None:
        with provide(ToolUse("final_result", {"n": 3})) as provider:
            result = provider.run(schema=SCHEMA)

        assert (result.outcome, result.output) == (Outcome.COMPLETED, {"n": 3})
        (asked,) = provider.server.requests
        assert asked["tools"][0]["function"]["parameters"]["properties"]["n"] == {"type": "integer"}

    def test_json_in_a_text_will_do(self, provide) -> None:
        with provide('```json\n{"n": 4}\n```') as provider:
            assert provider.run(schema=SCHEMA).output == {"n": 4}

    def test_what_is_no_object_comes_without_its_wrapping(self, provide) -> None:
        with provide(ToolUse("final_result", {"answer": ["a"]})) as provider:
            result = provider.run(schema={"type": "array", "items": {"type": "string"}})

        assert result.output == ["a"]

    def test_an_answer_that_does_not_fit_is_asked_for_again_and_both_are_paid_for(self, provide) -> None:
        with provide(ToolUse("final_result", {"n": "three"}), "no JSON", ToolUse("final_result", {"n": 3})) as provider:
            result = provider.run(schema=SCHEMA)

        assert (result.outcome, result.output) == (Outcome.COMPLETED, {"n": 3})
        assert [used.input_tokens for used in result.usage] == [3 * INPUT_TOKENS]
        assert "'three' is not of type 'integer' (at n)" in json.dumps(provider.server.requests[1]["messages"])
        assert "it is not JSON" in json.dumps(provider.server.requests[2]["messages"])

    def test_one_that_never_fits_fails_after_three(self, provide) -> None:
        with provide(*[ToolUse("final_result", {})] * 9) as provider:
            result = provider.run(schema=SCHEMA)

        assert (result.outcome, result.retryable, len(provider.server.requests)) == (Outcome.FAILED, True, 3)
        assert result.error == "openai:m-1: 3 answers in a row did not fit the schema: 'n' is a required property"

    @pytest.mark.parametrize(
        ("schema", "sentence"),
        [
            ({"type": "objekt"}, "schema is no JSON Schema: 'objekt'"),
            ({"patternProperties": {"^a": {}}}, "patternProperties is not supported"),
            ({"pattern": "("}, "cannot be read"),
        ],
    )
    def test_a_schema_that_is_none_is_refused_before_anything_is_paid(self, provide, schema, sentence) -> None:
        with provide() as provider:
            result = provider.run(schema=schema)

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert sentence in result.error
        assert not provider.server.requests

    def test_a_pattern_that_takes_for_ever_is_a_misfit(self, provide) -> None:
        began = time.monotonic()
        with provide(*[ToolUse("final_result", {"answer": "a" * 40 + "!"})] * 3) as provider:
            result = provider.run(schema={"type": "string", "pattern": "^(a|a)+$"})

        assert "does not match" in result.error
        assert time.monotonic() - began < 10

    def test_a_reference_to_somewhere_else_is_not_fetched(self, provide) -> None:
        with provide(ToolUse("final_result", {"answer": 1})) as provider:
            result = provider.run(schema={"$ref": f"{provider.server.url}/schema.json"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "schema cannot be checked" in result.error

    def test_a_value_that_is_too_large_to_keep_fails(self, provide) -> None:
        with provide(ToolUse("final_result", {"n": 3, "x": "y" * 2000})) as provider:
            result = provider.run(schema=SCHEMA, control={"output_limit": 1000})

        assert (result.outcome, result.output) == (Outcome.FAILED, None)
        assert "more than the 1,000 that are kept" in result.error


class TestTools:
    def test_it_uses_them_until_it_has_its_answer(self, provide) -> None:
        with provide([ToolUse("add", {"a": 1, "b": 2}), ToolUse("fail", {})], "It is 3") as provider:
            result = provider.run(tools=[SERVER])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert [used.input_tokens for used in result.usage] == [2 * INPUT_TOKENS]
        assert [told["tool"] for told in provider.told(CALL)] == ["add", "fail"]
        by_id = {told["id"]: told for told in provider.told(RETURNED)}
        added, failed = (by_id[told["id"]] for told in provider.told(CALL))
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
        assert [told.get("failed") for told in provider.told(RETURNED)] == [True, True]
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

            told = [told["output"] for told in provider.told(RETURNED)]
            sent = [message["content"] for message in provider.server.requests[1]["messages"][-4:]]
        assert sorted(sent) == ["", "fix", "mine", "tool-0123456789"]
        assert sorted(told) == ["", "***", "fix", "mine"]

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
        assert "went away" in result.error
        assert len(result.usage) == 1

    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            (["no-such-server"], "no-such-server is not installed"),
            (["sh", "-c", "echo no such option >&2; exit 3"], "The tool server sh went away"),
            (["sh", "-c", "echo hello; exec sleep 600"], "The tool server sh did not answer within 1 s"),
            (["sh", "-c", "head -c 9000000 /dev/zero; exec sleep 600"], "The tool server sh went away"),
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
        assert [told["output"] for told in provider.told(RETURNED)] == ["3"]

    def test_a_server_that_is_nowhere_is_said_so(self, provide) -> None:
        with provide("never") as provider:
            result = provider.run(tools=[{"url": "http://127.0.0.1:9/mcp"}])

        assert result.outcome is not Outcome.COMPLETED
        assert "127.0.0.1:9" in result.error
        assert not provider.server.requests


class TestStopping:
    @pytest.mark.parametrize(
        ("reason", "outcome"),
        [
            (StopReason.CANCELED, Outcome.CANCELED),
            (StopReason.SHUTDOWN, Outcome.HANDED_BACK),
            (StopReason.LEASE_LOST, Outcome.LOST),
        ],
    )
    def test_the_call_ends_with_it_at_once(self, provide, reason, outcome) -> None:
        with provide(Broken("I be", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(30)

            began = time.monotonic()
            job.stop(reason)
            result = job.end()

            assert result.outcome is outcome
            assert time.monotonic() - began < 1
            assert provider.server.left.wait(5)

    def test_one_that_waits_for_the_first_word_ends_as_well(self, provide) -> None:
        with provide(Broken("", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(30)

            job.control.stop(StopReason.CANCELED)

            assert job.end().outcome is Outcome.CANCELED
            assert provider.server.left.wait(5)

    def test_a_call_of_which_nothing_is_known_is_recorded_as_such(self, provide) -> None:
        with provide(ToolUse("add", {"a": 1, "b": 2}), Broken("I be", "hang")) as provider:
            job = provider.start(tools=[SERVER])
            assert provider.server.begun.wait(30)

            job.stop(StopReason.CANCELED)

            (used,) = job.end().usage
        assert (used.input_tokens, used.cost_usd) == (INPUT_TOKENS, None)
        assert used.extra["unmeasured_requests"] == 1

    def test_a_tool_that_works_is_ended_with_it(self, provide, bench: Bench) -> None:
        with provide(ToolUse("sh", {"command": "echo >&2 sleeping; sleep 600"}), "never") as provider:
            job = provider.start(tools=[SERVER])
            while not provider.told(CALL):
                job.control.wait(timedelta(milliseconds=10))

            began = time.monotonic()
            job.stop(StopReason.CANCELED)

            assert job.end().outcome is Outcome.CANCELED
            assert time.monotonic() - began < 2.5
            assert bench.left_behind() == []

    def test_it_is_timed_out_and_may_stand_still_only_so_long(self, provide) -> None:
        with provide(Broken("I", "hang")) as provider:
            result = provider.run(claim={"timeout": timedelta(seconds=1)})
            assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "timed out after 1 s")

            result = provider.run(claim={"stall_timeout": timedelta(seconds=1)})
            assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "no output for 1 s")

    def test_the_worker_that_closes_ends_what_is_left(self, provide, bench: Bench) -> None:
        with provide(Broken("I", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(30)

            bench.runners.close()

            assert job.end().outcome is Outcome.FAILED


class TestErrors:
    @pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 529])
    def test_a_busy_provider_is_waited_for_and_asked_once_only(self, provide, status: int) -> None:
        with provide(status, "never") as provider:
            result = provider.run()

        assert (result.outcome, result.error) == (Outcome.DEFERRED, f"openai:m-1: {status}: refused with {status}")
        assert len(provider.server.requests) == 1
        assert result.usage == ()

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
    def test_a_request_that_is_refused_is_not_repeated(self, provide, status: int) -> None:
        with provide(status) as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert result.error == f"openai:m-1: {status}: refused with {status}"

    @pytest.mark.parametrize("how", ["drop", "stop"])
    def test_an_answer_that_breaks_off_is_waited_for_and_recorded(self, provide, how: str) -> None:
        with provide(Broken("It is f", how)) as provider:
            result = provider.run()

        assert result.outcome is Outcome.DEFERRED
        assert [used.extra["unmeasured_requests"] for used in result.usage] == [1]

    def test_nobody_at_the_address_is_a_lost_connection(self, provide) -> None:
        with provide() as provider:
            result = provider.run(url="http://127.0.0.1:9/v1")

        assert result.outcome is Outcome.DEFERRED
        assert "the connection was lost" in result.error

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (Broken("It", "garbage"), "answered what cannot be understood"),
            ("", "answered nothing"),
            (Broken("It", "content_filter"), "content filter"),
        ],
    )
    def test_rubbish_is_a_failure_that_may_be_repeated(self, provide, answer, sentence: str) -> None:
        with provide(answer) as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
        assert sentence in result.error

    def test_an_answer_that_was_cut_off_is_kept_and_no_success(self, provide) -> None:
        with provide(Broken("It is", "length")) as provider:
            result = provider.run(settings={"max_tokens": 2})

        assert (result.outcome, result.output, result.retryable) == (Outcome.FAILED, "It is", False)
        assert result.error == "openai:m-1: the answer was cut off after 2 tokens (settings.max_tokens)"

    def test_usage_that_the_provider_does_not_tell_is_unknown_not_nothing(self, provide) -> None:
        with provide(Broken("It is fine", "uncounted")) as provider:
            result = provider.run()

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is fine")
        assert [(used.input_tokens, used.extra["unmeasured_requests"]) for used in result.usage] == [(0, 1)]

    def test_in_the_middle_of_a_conversation_a_busy_provider_is_waited_for_here(self, provide, monkeypatch) -> None:
        from workers.runners.chat import conversation

        monkeypatch.setattr(conversation, "_LONGEST_WAIT", 0.1)
        with provide(ToolUse("add", {"a": 1, "b": 2}), 429, 503, "It is 3") as provider:
            result = provider.run(tools=[SERVER])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert any("trying again" in told["text"] for told in provider.told(SAID))


class TestKeys:
    KEY = "sk-0123456789abcdef"

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", self.KEY)
        monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", self.KEY)
        monkeypatch.setenv("TEAM_KEY", "team-0123456789")

    def sent(self, provide, monkeypatch=None, **job: Any) -> dict[str, str]:
        with provide("ok") as provider:
            provider.server.every_turn = True
            if monkeypatch is not None:
                monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.server.url}/v1")
                job["url"] = None
            result = provider.run(**job)
            assert result.outcome is Outcome.COMPLETED, result.error
            (headers,) = provider.server.headers
        return headers

    def test_at_openais_own_address_it_speaks_the_newer_protocol(self, provide, monkeypatch) -> None:
        from workers.runners.chat import making

        with provide(ToolUse("add", {"a": 1, "b": 2}), "It is 3") as provider:
            # Without an address, as for OpenAI's own; the library is then told where the stand-in is.
            monkeypatch.setattr(making, "_provider", lambda _, access, client: self.own(provider, client, access.key))
            result = provider.run(url=None, tools=[SERVER], secrets=["OPENAI_API_KEY"])

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "It is 3")
        assert [told["output"] for told in provider.told(RETURNED)] == ["3"]
        (used,) = result.usage
        assert (used.input_tokens, used.output_tokens) == (2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
        assert (used.cached_input_tokens, used.extra["reasoning_output_tokens"]) == (200, 10)
        assert all("input" in asked for asked in provider.server.requests)
        assert provider.server.headers[0]["authorization"] == f"Bearer {self.KEY}"

    def own(self, provider: Provider, client: Any, key: str) -> Any:
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIProvider(base_url=f"{provider.server.url}/v1", api_key=key, http_client=client)

    @pytest.mark.parametrize("name", KNOWN)
    def test_every_provider_that_is_known_can_be_made_with_a_key_that_is_handed_over(self, name: str) -> None:
        import asyncio

        from workers.runners.chat.http import make_client
        from workers.runners.chat.making import make_model
        from workers.runners.environment import Secrets

        names = KNOWN[name].names
        values = dict.fromkeys(KNOWN[name].keys, "key-0123456789")
        values |= {"AZURE_OPENAI_ENDPOINT": "https://x.example", "OPENAI_API_VERSION": "2024-12-01"}
        values |= {"OLLAMA_BASE_URL": "http://x.example/v1", "VLLM_BASE_URL": "http://x.example/v1"}
        call = ChatCall(f"{name}:a/m", "x")

        async def make() -> str:
            async with make_client() as client:
                model = make_model(call, access(call, Secrets(names, values)), client)
                made: Any = model.client  # type: ignore[attr-defined]
                return str(made._api_client.api_key if name == "google" else made.api_key)

        assert asyncio.run(make()) == "key-0123456789"

    def test_to_an_address_of_the_workers_goes_the_workers_key(self, provide, monkeypatch) -> None:
        assert self.sent(provide, monkeypatch)["authorization"] == f"Bearer {self.KEY}"

    def test_to_an_address_of_the_plans_goes_only_what_the_plan_names(self, provide) -> None:
        assert self.KEY not in str(self.sent(provide))
        assert self.sent(provide, secrets=["TEAM_KEY"])["authorization"] == "Bearer team-0123456789"

    def test_so_it_is_with_other_providers(self, provide) -> None:
        assert self.KEY not in str(self.sent(provide, chat="anthropic:claude-x"))
        headers = self.sent(provide, chat="anthropic:claude-x", secrets=["TEAM_KEY"])

        assert "team-0123456789" in (headers.get("authorization", "") + headers.get("x-api-key", ""))
        assert self.KEY not in str(headers)

    def test_without_a_key_it_is_refused_by_name(self, bench: Bench, monkeypatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        result = bench.run({"chat": "openai:m", "prompt": "x"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "the worker's environment has no OPENAI_API_KEY" in result.error
        assert "no NOWHERE" in (bench.run({"chat": "openai:m", "prompt": "x", "secrets": ["NOWHERE"]}).error or "")

    def test_their_values_are_kept_nowhere(self, provide) -> None:
        with provide("It is team-0123456789") as provider:
            result = provider.run(secrets=["TEAM_KEY"])
            told = provider.told(SAID)
        with provide(ToolUse("final_result", {"team-0123456789": ["team-0123456789"]})) as provider:
            formed = provider.run(secrets=["TEAM_KEY"], schema={"type": "object"})

        assert (result.output, told) == ("It is ***", [{"text": "It is ***"}])
        assert formed.output == {"***": ["***"]}

    def test_a_price_that_the_provider_tells_is_the_price(self) -> None:
        from pydantic_ai.messages import ModelResponse
        from pydantic_ai.usage import RequestUsage

        from workers.runners.agents.base import Transcript
        from workers.runners.chat.spending import Spending

        told = Transcript(lambda *_: None)
        spending = Spending(told, provider="openrouter", model="m")
        usage = RequestUsage(input_tokens=1, output_tokens=1)

        spending.add(ModelResponse([], usage=usage, model_name="m", provider_details={"cost": 0.00125}))
        assert told.usage["m"].cost_usd == Decimal("0.00125")
        spending.add(ModelResponse([], usage=usage, model_name="m"))
        assert told.usage["m"].cost_usd is None


def test_many_wait_at_once_on_one_thread(provide, bench: Bench) -> None:
    with provide(Broken("I", "hang")) as provider:
        jobs = [provider.start() for _ in range(20)]
        for job in jobs:
            assert job.moved.wait(30)
        loops = [thread for thread in threading.enumerate() if thread.name == "chats"]

        for job in jobs:
            job.stop(StopReason.CANCELED)

        assert {job.end().outcome for job in jobs} == {Outcome.CANCELED}
        assert len(loops) == 1


def test_no_file_and_no_process_of_a_job_is_left(provide, bench: Bench) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with provide(ToolUse("add", {"a": 1, "b": 2}), "ok") as provider:
        provider.run(tools=[SERVER])

    assert list(bench.scratch.iterdir()) == []
    assert stragglers.find([os.fsencode(bench.runners.launcher.marker)]) == []
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 8  # noqa: PTH208 - the warden's and the loop's own
