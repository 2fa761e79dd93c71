"""Test chats as jobs: answers, event log, usage, stops. Only the provider is a stand-in; the rest is real."""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta

import pytest

from coordination.domain.money.pricing import PROVIDER
from coordination.domain.tasks.attempts import Outcome
from tests.support.chats import CALL, SAID, SERVER, STARTED
from tests.support.jobs import Bench
from tests.support.model_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Broken,
    ToolUse,
)
from tests.support.speed import patience
from workers.runners import orphan_reaper
from workers.runners.base import StopReason


class TestAnswers:
    def test_the_provider_that_was_asked_stands_with_what_was_used(self, provide) -> None:
        with provide("It is fine") as provider:
            result = provider.run(chat="vllm:gpt-5-mini")

        (used,) = result.usage
        assert used.extra == {"provider": "vllm", PROVIDER: "vllm"}

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
        (requests,) = provider.server.requests
        assert [message["role"] for message in requests["messages"]] == ["system", "user"]
        assert requests["messages"][1]["content"] == "How is it?"
        assert requests["temperature"] == 0.5
        assert 99 in (requests.get("max_tokens"), requests.get("max_completion_tokens"))

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

        monkeypatch.setattr(conversation, "_TEXT_EVERY", 0.0)
        with provide(Broken("First.\n\nSecond.\n\nTh", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(patience(30))

            until_told = time.monotonic() + 10
            while not provider.told(SAID) and time.monotonic() < until_told:
                job.control.wait(timedelta(milliseconds=10))
            job.stop(StopReason.CANCELED)
            job.end()

        assert "".join(output["text"] for output in provider.told(SAID)).startswith("First.")

    def test_a_job_without_the_extra_says_how_to_get_it(self, provide, monkeypatch) -> None:
        monkeypatch.delitem(sys.modules, "workers.runners.chat.conversation", raising=False)
        monkeypatch.setitem(sys.modules, "pydantic_ai.direct", None)
        with provide("never") as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "[chat]" in result.error
        assert not provider.server.requests

    def test_a_provider_that_nobody_knows_is_named(self, bench: Bench) -> None:
        result = bench.run({"chat": "opanai:m", "prompt": "x"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "No runner holds chats with opanai. Did you mean 'openai'?" in result.error


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
            assert provider.server.begun.wait(patience(30))

            began = time.monotonic()
            job.stop(reason)
            result = job.end()

            assert result.outcome is outcome
            assert time.monotonic() - began < patience(10)
            assert provider.server.left.wait(patience(5))

    def test_one_that_waits_for_the_first_word_ends_as_well(self, provide) -> None:
        with provide(Broken("", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(patience(30))

            job.control.stop(StopReason.CANCELED)

            assert job.end().outcome is Outcome.CANCELED
            assert provider.server.left.wait(patience(5))

    def test_a_call_of_which_nothing_is_known_is_recorded_as_such(self, provide) -> None:
        with provide(ToolUse("add", {"a": 1, "b": 2}), Broken("I be", "hang")) as provider:
            job = provider.start(tools=[SERVER])
            assert provider.server.begun.wait(patience(30))

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
            assert time.monotonic() - began < patience(20)
            assert bench.left_behind() == []

    def test_it_is_timed_out_and_may_stand_still_only_so_long(self, provide) -> None:
        with provide(Broken("I", "hang")) as provider:
            result = provider.run(claim={"timeout": timedelta(seconds=1)})
            assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "timed out after 1 s")

            result = provider.run(claim={"stall_timeout": timedelta(seconds=1)})
            assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "no output for 1 s")

    @pytest.mark.full
    def test_one_that_only_takes_its_time_does_not_stand_still(self, provide) -> None:
        with provide(Broken("word " * 18, "slow")) as provider:  # three words a second
            result = provider.run(claim={"stall_timeout": timedelta(seconds=5)})

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "word" * 18)

    def test_what_the_first_chat_imports_counts_for_no_limit(self, provide, monkeypatch) -> None:
        from pydantic_ai.providers import infer_provider_class

        from workers.runners.chat import model_factory

        calls: list[str] = []

        def infer(name: str) -> object:
            calls.append(name)
            time.sleep(2.1)
            return infer_provider_class(name)

        monkeypatch.setattr(model_factory, "infer_provider_class", infer)
        limits = {name: timedelta(seconds=2) for name in ("timeout", "stall_timeout")}
        with provide("It is fine") as provider:
            result = provider.run(claim=limits)

        assert (result.outcome, len(calls)) == (Outcome.COMPLETED, 1)

    def test_the_worker_that_closes_ends_what_is_left(self, provide, bench: Bench) -> None:
        with provide(Broken("I", "hang")) as provider:
            job = provider.start()
            assert provider.server.begun.wait(patience(30))

            bench.runners.close()

            assert job.end().outcome is Outcome.FAILED


def test_many_wait_at_once_on_one_thread(provide, bench: Bench) -> None:
    with provide(Broken("I", "hang")) as provider:
        jobs = [provider.start() for _ in range(20)]
        for job in jobs:
            assert job.moved.wait(patience(30))
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
    assert orphan_reaper.find([os.fsencode(bench.runners.launcher.marker)]) == []
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 8  # noqa: PTH208 - + sockets of warden and loop
