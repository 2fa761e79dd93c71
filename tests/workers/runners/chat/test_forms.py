"""Test answers that must match a JSON Schema."""

from __future__ import annotations

import json
import time

import pytest

from coordination.domain.tasks.attempts import Outcome
from tests.support.chats import SCHEMA
from tests.support.model_server import (
    INPUT_TOKENS,
    ToolUse,
)
from tests.support.speed import patience


class TestForms:
    def test_the_output_is_the_json_value(self, provide) -> None:
        with provide(ToolUse("final_result", {"n": 3})) as provider:
            result = provider.run(schema=SCHEMA)

        assert (result.outcome, result.output) == (Outcome.COMPLETED, {"n": 3})
        (requests,) = provider.server.requests
        assert requests["tools"][0]["function"]["parameters"]["properties"]["n"] == {"type": "integer"}

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
        assert result.error == "openai:m-1: 3 answers in a row did not match the schema: 'n' is a required property"

    @pytest.mark.parametrize(
        ("schema", "sentence"),
        [
            ({"type": "objekt"}, "schema is no JSON Schema: 'objekt'"),
            ({"patternProperties": {"^a": {}}}, "patternProperties is not supported"),
            ({"pattern": "("}, "cannot be read"),
        ],
    )
    def test_a_schema_that_is_none_is_refused_before_anything_is_settled(self, provide, schema, sentence) -> None:
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
        assert time.monotonic() - began < patience(10)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonschema's warning of a fetch
    def test_a_reference_to_somewhere_else_is_not_fetched(self, provide) -> None:
        with provide(ToolUse("final_result", {"answer": 1})) as provider:
            result = provider.run(schema={"$ref": f"{provider.server.url}/schema.json"})

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "schema cannot be checked" in result.error
        assert provider.server.fetched == []

    def test_a_value_that_is_too_large_to_keep_fails(self, provide) -> None:
        with provide(ToolUse("final_result", {"n": 3, "x": "y" * 2000})) as provider:
            result = provider.run(schema=SCHEMA, control={"output_limit": 1000})

        assert (result.outcome, result.output) == (Outcome.FAILED, None)
        assert "more than the 1,000 that are kept" in result.error
