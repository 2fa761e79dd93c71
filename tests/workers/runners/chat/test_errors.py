"""Test errors between a chat and its provider, and how the attempt ends."""

# ruff: noqa: FBT001 - parameters of tests

from __future__ import annotations

import json

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.chats import SAID, SERVER
from tests.support.model_server import (
    Broken,
    ToolUse,
)


class TestErrors:
    @pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 529])
    def test_a_busy_provider_is_waited_for_and_asked_once_only(self, provide, status: int) -> None:
        with provide(status, "never") as provider:
            result = provider.run()

        assert (result.outcome, result.error) == (Outcome.DEFERRED, f"openai:m-1: {status}: refused with {status}")
        assert len(provider.server.requests) == 1
        assert result.usage == ()

    @pytest.mark.parametrize("status", [400, 403, 404, 422])
    def test_a_request_that_is_refused_is_not_repeated(self, provide, status: int) -> None:
        with provide(status) as provider:
            result = provider.run()

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert result.error == f"openai:m-1: {status}: refused with {status}"

    @pytest.mark.parametrize(("secrets", "variable"), [([], "OPENAI_API_KEY"), (["TEAM_KEY"], "TEAM_KEY")])
    def test_a_log_in_that_is_refused_names_the_variable(self, provide, monkeypatch, secrets, variable) -> None:
        monkeypatch.setenv("TEAM_KEY", "of-nobody")
        with provide(401) as provider:
            result = provider.run(secrets=secrets)

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert f"openai:m-1 is not logged in where this worker runs: set {variable}" in result.error
        assert "(it said: openai:m-1: 401: refused with 401)" in result.error

    @pytest.mark.parametrize(
        ("body", "outcome", "limited"),
        [
            ({"error": {"message": "The model is overloaded", "code": 503}}, Outcome.DEFERRED, False),
            ({"error": {"message": "Internal error"}}, Outcome.DEFERRED, False),
            ({"error": {"message": "You exceeded your current quota", "code": 429}}, Outcome.DEFERRED, True),
            ({"error": {"message": "no such model", "code": 404}}, Outcome.FAILED, False),
            ({"error": "Insufficient credits"}, Outcome.DEFERRED, True),
        ],
    )
    def test_an_error_in_an_answer_whose_status_is_well(self, provide, body, outcome: Outcome, limited: bool) -> None:
        with provide(Broken(json.dumps(body), "body")) as provider:
            result = provider.run()

        assert (result.outcome, result.limit is not None) == (outcome, limited)
        message = body["error"] if isinstance(body["error"], str) else body["error"]["message"]
        assert message in result.error
        assert len(provider.server.requests) == 1

    @pytest.mark.parametrize(
        ("body", "words", "outcome", "limited"),
        [
            ([{"error": {"code": 429, "message": "Daily limit reached"}}], "Daily", Outcome.DEFERRED, True),
            ({"success": False, "errors": [{"code": 1000, "message": "Rate limit"}]}, "Rate", Outcome.DEFERRED, False),
            ({"object": "error", "message": "It is full", "code": 503}, "It is full", Outcome.DEFERRED, False),
            (
                {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
                "insufficient balance",
                Outcome.DEFERRED,
                True,
            ),
            ({"detail": "Unauthorized"}, "is not logged in", Outcome.FAILED, False),
            ({"error": {"code": 500}}, "500", Outcome.DEFERRED, False),
            ({"error": None, "choices": []}, "what cannot be understood", Outcome.FAILED, False),
        ],
    )
    def test_other_bodies_that_are_an_error(self, provide, body, words: str, outcome: Outcome, limited: bool) -> None:
        with provide(Broken(json.dumps(body), "body")) as provider:
            result = provider.run()

        assert (result.outcome, result.limit is not None) == (outcome, limited)
        assert words in result.error

    @pytest.mark.parametrize(
        ("words", "limited"), [("The server had an error", False), ("You have hit your monthly limit", True)]
    )
    def test_an_error_in_the_middle_of_a_stream_is_understood(self, provide, words: str, limited: bool) -> None:
        with provide(Broken(words, "error")) as provider:
            result = provider.run()

        assert (result.outcome, result.limit is not None) == (Outcome.DEFERRED, limited)
        assert words in result.error

    def test_an_answer_that_its_provider_breaks_off_is_no_answer(self, provide) -> None:
        with provide(Broken("It is f", "cut")) as provider:
            result = provider.run()

        assert (result.outcome, result.output) == (Outcome.DEFERRED, "It is f")
        assert result.error == "openai:m-1: the provider broke the answer off (error)"

    def test_a_limit_in_the_middle_of_a_conversation_is_not_waited_for_here(self, provide, monkeypatch) -> None:
        from workers.runners.chat import conversation

        monkeypatch.setattr(conversation, "_LONGEST_WAIT", 0.1)
        limit = Broken(json.dumps({"error": {"message": "Daily limit reached", "code": 429}}), "body")
        with provide(ToolUse("add", {"a": 1, "b": 2}), limit, "never") as provider:
            result = provider.run(tools=[SERVER])

        assert (result.outcome, result.limit.window) == (Outcome.DEFERRED, "daily")
        assert result.limit.account == "openai"
        assert len(provider.server.requests) == 2

    @pytest.mark.parametrize("how", ["drop", "stop"])
    def test_an_answer_that_breaks_off_is_waited_for_and_recorded(self, provide, how: str) -> None:
        with provide(Broken("It is f", how)) as provider:
            result = provider.run()

        assert result.outcome is Outcome.DEFERRED
        assert [used.extra["unmeasured_requests"] for used in result.usage] == [1]

    def test_a_response_without_end_counts_as_a_lost_connection(self, provide, monkeypatch) -> None:
        from workers.runners.chat import http

        monkeypatch.setattr(http, "LARGEST", 2_000)
        with provide("x" * 10_000) as provider:
            result = provider.run()

        assert result.outcome is Outcome.DEFERRED
        assert "longer than 2,000 bytes" in result.error

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
        assert any("trying again" in report["text"] for report in provider.told(SAID))
