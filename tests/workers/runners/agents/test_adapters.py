"""Test how each agent's output is parsed, with lines that its program printed (shortened to what is read)."""

# ruff: noqa: RUF012, FBT001 - constants of tests, parameters of tests

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from coordination.domain.jobs import AgentCall
from coordination.domain.tasks.attempts import Outcome, Usage
from coordination.domain.tasks.events import EventType
from tests.support.sources import ROOT
from workers.runners.agents.adapters import ADAPTERS
from workers.runners.agents.base import LONGEST_TEXT, MOST_EVENTS, Transcript, parse_json_line, usage_record

CALL, RETURNED, SAID = EventType.TOOL_CALL, EventType.TOOL_RESULT, EventType.PROGRESS


@dataclass
class Heard:
    """The result of parsing a stream."""

    told: Transcript
    events: list[tuple[EventType, dict[str, Any]]]

    @property
    def usage(self) -> list[Usage]:
        return list(self.told.usage.values())


def heard(agent: str, *lines: Mapping[str, Any], model: str | None = None, **more: Any) -> Heard:
    call = AgentCall(agent, "work", model=model, **more)
    events: list[tuple[EventType, dict[str, Any]]] = []
    transcript = Transcript(lambda type_, payload: events.append((type_, payload)))
    for line in lines:
        parsed = parse_json_line(json.dumps(line).encode())
        assert parsed is not None
        ADAPTERS[agent].read(parsed, transcript, call)
    return Heard(transcript, events)


class TestClaude:
    INIT = {"type": "system", "subtype": "init", "session_id": "b6586baf", "model": "claude-sonnet-4-5"}
    USED = {"input_tokens": 1200, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 300, "output_tokens": 1}

    def assistant(self, part: dict[str, Any], *, id_: str = "msg_1") -> dict[str, Any]:
        message = {"id": id_, "model": "claude-sonnet-4-5", "content": [part], "usage": self.USED}
        return {"type": "assistant", "message": message, "session_id": "b6586baf"}

    def tool(self) -> dict[str, Any]:
        return self.assistant({"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}})

    def returned(self, content: Any, *, failed: bool = False) -> dict[str, Any]:
        part = {"tool_use_id": "toolu_1", "type": "tool_result", "content": content, "is_error": failed}
        return {"type": "user", "message": {"role": "user", "content": [part]}, "session_id": "b6586baf"}

    def result(self, **changes: Any) -> dict[str, Any]:
        by_model = {
            "claude-sonnet-4-5": {
                "inputTokens": 2400,
                "outputTokens": 68,
                "cacheReadInputTokens": 300,
                "cacheCreationInputTokens": 10,
                "costUSD": 0.00822,
            },
            "claude-haiku-4-5": {"inputTokens": 5, "outputTokens": 2, "costUSD": 0.0001},
        }
        line = {"type": "result", "subtype": "success", "is_error": False, "api_error_status": None, "result": "Done"}
        return {**line, "session_id": "b6586baf", "modelUsage": by_model, "permission_denials": [], **changes}

    def test_a_job_that_uses_a_tool_and_ends_well(self) -> None:
        output = self.assistant({"type": "text", "text": "Done"}, id_="msg_2")

        parsed = heard("claude", self.INIT, self.tool(), self.returned("(no output)"), output, self.result())

        assert (parsed.told.result, parsed.told.session, parsed.told.ended, parsed.told.failure) == (
            *("Done", "b6586baf"),
            *(True, None),
        )
        assert parsed.events == [
            (CALL, {"tool": "Bash", "input": '{"command": "ls"}', "id": "toolu_1"}),
            (RETURNED, {"output": "(no output)", "id": "toolu_1"}),
            (SAID, {"text": "Done"}),
        ]
        first, second = parsed.usage
        assert (first.model, first.input_tokens, first.cached_input_tokens, first.output_tokens, first.cost_usd) == (
            *("claude-sonnet-4-5", 2710, 300, 68),
            Decimal("0.00822"),
        )
        assert first.extra == {"summed": 1, "cache_write_input_tokens": 10}
        assert (second.model, second.cost_usd) == ("claude-haiku-4-5", Decimal("0.0001"))

    def test_one_that_is_ended_before_its_last_line_has_used_what_its_messages_say_at_a_price_unknown(self) -> None:
        again = self.assistant({"type": "text", "text": "more of the same message"})

        parsed = heard("claude", self.INIT, self.tool(), again, self.assistant({"type": "text"}, id_="msg_2"))

        assert [(one.input_tokens, one.cost_usd) for one in parsed.usage] == [(1510, None), (1510, None)]
        assert not parsed.told.ended

    @pytest.mark.parametrize(
        ("status", "outcome", "retryable"),
        [
            (429, Outcome.DEFERRED, True),
            (529, Outcome.DEFERRED, True),
            (400, Outcome.FAILED, False),
            (401, Outcome.FAILED, False),
            (None, Outcome.FAILED, True),
        ],
    )
    def test_an_error_is_judged_by_is_error_and_the_status(
        self, status: int | None, outcome: Outcome, retryable: bool
    ) -> None:
        line = self.result(is_error=True, api_error_status=status, result="API Error: no", modelUsage={})

        failure = heard("claude", self.INIT, line).told.failure

        assert failure is not None
        assert (failure.sentence, failure.outcome, failure.retryable) == ("API Error: no", outcome, retryable)

    def test_a_message_that_the_program_made_itself_is_neither_said_nor_paid(self) -> None:
        line = self.assistant({"type": "text", "text": "API Error"})
        line["message"]["model"] = "<synthetic>"

        parsed = heard("claude", line)

        assert (parsed.events, parsed.usage) == ([], [])

    def test_its_own_cap_leaves_the_true_price_and_names_the_reason(self) -> None:
        line = self.result(is_error=True, subtype="error_max_budget_usd", result=None)

        parsed = heard("claude", self.INIT, line)

        assert parsed.told.failure is not None
        assert parsed.told.failure.sentence == "error max budget usd"
        assert parsed.usage[0].cost_usd == Decimal("0.00822")

    def test_a_tool_that_was_not_allowed_is_remarked(self) -> None:
        parsed = heard("claude", self.result(permission_denials=[{"tool_name": "Bash", "tool_use_id": "x"}]))

        assert parsed.told.result == "Done"
        assert "not allowed: Bash" in parsed.told.remarks[0]

    def test_what_a_tool_gave_back_in_parts_and_as_an_error(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]

        parsed = heard("claude", self.returned(parts, failed=True))

        assert parsed.events == [(RETURNED, {"output": "a\nb", "id": "toolu_1", "failed": True})]


class TestCodex:
    STARTED = {"type": "thread.started", "thread_id": "01a1ff07"}
    WARNING = {
        "type": "item.completed",
        "item": {"id": "item_0", "type": "error", "message": "Model metadata not found"},
    }
    ANSWER = {"type": "item.completed", "item": {"id": "item_2", "type": "agent_message", "text": "Done by codex"}}
    USED = {"input_tokens": 2400, "cached_input_tokens": 100, "cache_write_input_tokens": 0, "output_tokens": 68}
    COMPLETED = {"type": "turn.completed", "usage": {**USED, "reasoning_output_tokens": 7}}

    def command(self, when: str, **changes: Any) -> dict[str, Any]:
        item = {"id": "item_1", "type": "command_execution", "command": "echo seen", "aggregated_output": ""}
        return {"type": f"item.{when}", "item": {**item, "exit_code": None, "status": "in_progress", **changes}}

    def test_a_job_that_runs_a_command_and_ends_well(self) -> None:
        done = self.command("completed", aggregated_output="seen\n", exit_code=0, status="completed")

        parsed = heard("codex", self.STARTED, self.WARNING, self.command("started"), done, self.ANSWER, self.COMPLETED)

        assert (parsed.told.result, parsed.told.session, parsed.told.ended) == ("Done by codex", "01a1ff07", True)
        assert parsed.told.failure is None, "an item of the type error is a warning"
        assert parsed.told.remarks == ["a warning: Model metadata not found"]
        assert parsed.events == [
            (CALL, {"tool": "command_execution", "input": '{"command": "echo seen"}', "id": "item_1"}),
            (RETURNED, {"output": "seen\n", "id": "item_1"}),
            (SAID, {"text": "Done by codex"}),
        ]

    def test_usage_names_the_model_that_was_asked_for_and_no_price(self) -> None:
        (used,) = heard("codex", self.STARTED, self.COMPLETED, model="gpt-5").usage
        (unnamed,) = heard("codex", self.COMPLETED).usage

        assert (used.model, used.input_tokens, used.cached_input_tokens, used.output_tokens) == ("gpt-5", 2400, 100, 68)
        assert (used.cost_usd, used.extra, used.session_id) == (
            *(None, {"summed": 1, "reasoning_output_tokens": 7}, "01a1ff07"),
        )
        assert unnamed.model == "codex-default"

    def test_a_command_that_fails_is_marked(self) -> None:
        done = self.command("completed", aggregated_output="no", exit_code=1, status="failed")

        assert heard("codex", done).events == [(RETURNED, {"output": "no", "id": "item_1", "failed": True})]

    @pytest.mark.parametrize(
        ("message", "outcome", "retryable"),
        [
            ("exceeded retry limit, last status: 429 Too Many Requests", Outcome.DEFERRED, True),
            ("unexpected status 503 Service Unavailable", Outcome.DEFERRED, True),
            ('{"error": {"message": "stub error 400", "type": "x", "code": "400"}}', Outcome.FAILED, False),
            ("stream disconnected before completion: connection reset", Outcome.DEFERRED, True),
            ("something else", Outcome.FAILED, True),
        ],
    )
    def test_why_a_turn_failed_decides_what_comes_next(self, message: str, outcome: Outcome, retryable: bool) -> None:
        failure = heard("codex", {"type": "turn.failed", "error": {"message": message}}).told.failure

        assert failure is not None
        assert (failure.outcome, failure.retryable) == (outcome, retryable)


class TestOpenCode:
    def step(self, reason: str, *, id_: str, cost: float = 0.00411) -> dict[str, Any]:
        used = {"input": 1200, "output": 30, "reasoning": 4, "cache": {"read": 50, "write": 6}}
        return {
            "type": "step_finish",
            "sessionID": "ses_1",
            "part": {"id": id_, "reason": reason, "tokens": used, "cost": cost},
        }

    TOOL = {
        "type": "tool_use",
        "sessionID": "ses_1",
        "part": {
            "tool": "bash",
            "callID": "call_1",
            "state": {"status": "completed", "input": {"command": "ls"}, "output": "x"},
        },
    }

    def text(self, text: str) -> dict[str, Any]:
        return {"type": "text", "sessionID": "ses_1", "part": {"type": "text", "text": text}}

    def test_its_answer_is_what_it_says_after_its_last_tool(self) -> None:
        parsed = heard(
            *("opencode", self.text("I look."), self.TOOL, self.step("tool-calls", id_="p1")),
            *(self.text("Done by"), self.text("opencode"), self.step("stop", id_="p2")),
        )

        assert (parsed.told.result, parsed.told.session, parsed.told.ended) == ("Done by\nopencode", "ses_1", True)
        assert parsed.events[1:3] == [
            (CALL, {"tool": "bash", "input": '{"command": "ls"}', "id": "call_1"}),
            (RETURNED, {"output": "x", "id": "call_1"}),
        ]

    def test_every_step_counts_once_with_its_price(self) -> None:
        parsed = heard("opencode", self.step("tool-calls", id_="p1"), self.step("stop", id_="p2"), model="stub/m")

        assert [(one.model, one.input_tokens, one.cached_input_tokens, one.output_tokens) for one in parsed.usage] == [
            ("stub/m", 1256, 50, 34)
        ] * 2
        assert sum(one.cost_usd or 0 for one in parsed.usage) == Decimal("0.00822")

    def test_a_price_of_zero_is_an_unknown_one(self) -> None:
        assert heard("opencode", self.step("stop", id_="p", cost=0)).usage[0].cost_usd is None

    def test_a_step_that_only_calls_tools_is_not_the_end(self) -> None:
        assert not heard("opencode", self.step("tool-calls", id_="p1")).told.ended

    def test_an_error_tells_its_status(self) -> None:
        data = {"message": "slow down", "statusCode": 429, "isRetryable": True}

        failure = heard("opencode", {"type": "error", "error": {"name": "APIError", "data": data}}).told.failure

        assert failure is not None
        assert (failure.sentence, failure.outcome) == ("slow down", Outcome.DEFERRED)


class TestGemini:
    INIT = {"type": "init", "session_id": "2332e2ac", "model": "gemini-2.5-pro"}
    TOOL = {"type": "tool_use", "tool_name": "write_file", "tool_id": "t1", "parameters": {"file_path": "o"}}
    RETURNED = {"type": "tool_result", "tool_id": "t1", "status": "success"}

    def message_piece(self, piece: str, role: str = "assistant") -> dict[str, Any]:
        return {"type": "message", "role": role, "content": piece, "delta": True}

    def result(self, **changes: Any) -> dict[str, Any]:
        used = {"total_tokens": 2468, "input_tokens": 2400, "output_tokens": 68, "cached": 40}
        return {"type": "result", "status": "success", "stats": {**used, "models": {"gemini-2.5-pro": used}}, **changes}

    def test_its_answer_comes_in_pieces_after_its_last_tool(self) -> None:
        parsed = heard(
            *(
                "gemini",
                self.INIT,
                self.message_piece("work", "user"),
                self.message_piece("I write."),
                self.TOOL,
                self.RETURNED,
            ),
            *(self.message_piece("Done by"), self.message_piece(" gemini"), self.result()),
        )

        assert (parsed.told.result, parsed.told.session, parsed.told.ended) == ("Done by gemini", "2332e2ac", True)
        assert parsed.events == [
            (SAID, {"text": "I write."}),
            (CALL, {"tool": "write_file", "input": '{"file_path": "o"}', "id": "t1"}),
            (RETURNED, {"id": "t1"}),
            (SAID, {"text": "Done by gemini"}),
        ]
        (used,) = parsed.usage
        assert (used.model, used.input_tokens, used.cached_input_tokens, used.output_tokens, used.cost_usd) == (
            *("gemini-2.5-pro", 2400, 40, 68),
            None,
        )

    def test_thoughts_which_are_only_in_its_total_count_as_output(self) -> None:
        used = {"total_tokens": 2600, "input_tokens": 2400, "output_tokens": 68, "cached": 40}

        (parsed,) = heard("gemini", self.INIT, self.result(stats={"models": {"gemini-2.5-pro": used}})).usage

        assert (parsed.input_tokens, parsed.output_tokens, parsed.total_tokens) == (2400, 200, 2600)
        assert parsed.extra == {"summed": 1, "reasoning_output_tokens": 132}

    def test_where_no_model_is_told_the_whole_counts_for_the_one_it_began_with(self) -> None:
        (used,) = heard("gemini", self.INIT, self.result(stats={"input_tokens": 5, "output_tokens": 1})).usage

        assert (used.model, used.input_tokens) == ("gemini-2.5-pro", 5)

    def test_an_error_tells_its_status_in_its_message(self) -> None:
        message = '[API Error: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]'

        failure = heard("gemini", self.result(status="error", error={"message": message}, stats={})).told.failure

        assert failure is not None
        assert (failure.status, failure.outcome) == (503, Outcome.DEFERRED)


class TestCustom:
    READS = {
        "format": "jsonl",
        "result": "answer.text",
        "error": "problem",
        "session": "id",
        "model": "by",
        "input_tokens": "used.in",
        "output_tokens": "used.out",
        "cost_usd": "used.usd",
    }

    def test_its_places_are_read_from_every_line(self) -> None:
        parsed = heard(
            "custom",
            {"id": "s1", "by": "m1", "used": {"in": 3, "out": 1, "usd": "0.10"}},
            {"answer": {"text": "first"}, "used": {"in": 4, "usd": 0.2}},
            {"answer": {"text": {"n": 1}}, "other": 5},
            command=("tool",),
            reads=self.READS,
        )

        assert (parsed.told.result, parsed.told.session, parsed.told.ended) == ('{"n": 1}', "s1", True)
        assert [(one.model, one.input_tokens, one.cost_usd) for one in parsed.usage] == [
            ("m1", 3, Decimal("0.10")),
            ("m1", 4, Decimal("0.2")),
        ]

    def test_an_error_fails_it(self) -> None:
        parsed = heard("custom", {"problem": "no quota: status 429"}, command=("tool",), reads=self.READS)

        assert parsed.told.failure is not None
        assert parsed.told.failure.outcome is Outcome.DEFERRED

    def test_what_the_prompt_holds_is_not_filled_in(self) -> None:
        call = AgentCall("custom", "say {model}", model="m", command=("t", "-p={prompt}", "{model}"), args=("{model}",))

        start = ADAPTERS["custom"].start(call)

        assert (start.arguments, start.stdin) == (["t", "-p=say {model}", "m", "{model}"], "")

    def test_without_a_place_for_it_the_prompt_comes_on_stdin(self) -> None:
        assert ADAPTERS["custom"].start(AgentCall("custom", "work", command=("t",))).stdin == "work"


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "opencode"])
def test_how_each_is_started(agent: str) -> None:
    call = AgentCall(agent, "Mend it", model="m", args=("--more",))

    start = ADAPTERS[agent].start(call)

    assert start.arguments[0] == agent
    assert start.arguments[start.arguments.index("--model") + 1] == "m"
    assert "--more" in start.arguments
    assert "Mend it" not in start.arguments, "an argument holds at most 128 KB"
    assert start.stdin == "Mend it"
    assert ADAPTERS[agent].start(AgentCall(agent, "x", command=("/opt/it", "sub"))).arguments[:2] == ["/opt/it", "sub"]


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "opencode"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, [None], {"content": 5}])
def test_lines_of_an_unknown_shape_are_survived(agent: str, value: Any) -> None:
    kinds = (
        "assistant user result item.started item.completed turn.completed turn.failed tool_use step_finish error text"
    )
    fields = ("message", "item", "usage", "error", "part", "stats", "modelUsage", "result", "session_id", "sessionID")

    for kind in kinds.split():
        heard(agent, {"type": kind, **dict.fromkeys(fields, value)})


def test_long_texts_and_many_events_are_cut_and_say_so() -> None:
    long = [{"type": "item.completed", "item": {"type": "agent_message", "text": "x" * 5000}}]

    parsed = heard("codex", *long * (MOST_EVENTS + 5))

    assert len(parsed.events) == MOST_EVENTS
    assert parsed.events[0][1]["text"] == "x" * LONGEST_TEXT + "… (5,000 characters)"
    assert "the rest is not shown" in parsed.events[-1][1]["text"]


@pytest.mark.parametrize("line", [b"", b"{", b"5", b"[]", b"Warning: x", b'{"a": ' + b"[" * 100_000])
def test_what_is_no_json_object_is_nothing(line: bytes) -> None:
    assert parse_json_line(line) is None


def test_amounts_are_exact_and_bad_ones_unknown() -> None:
    exact = parse_json_line(b'{"cost": 0.1000000000000000055, "bad": NaN}')
    assert exact == {"cost": Decimal("0.1000000000000000055"), "bad": None}

    for values, meant in (("0.1000000000000000055", "0.1000000000000000055"), (0.009899999999999999, "0.0099")):
        used = usage_record("m", input_tokens=1, cost=values)
        assert used is not None
        assert used.cost_usd == Decimal(meant)
    for bad in (True, -1, "x", Decimal("1e400"), [], float("inf")):
        used = usage_record("m", input_tokens=1, cost=bad)
        assert used is not None
        assert used.cost_usd is None
    assert usage_record("m", input_tokens=Decimal("1e400000"), output_tokens=-5, cached_tokens=True) is None


def test_the_adapter_of_the_documentation_reads_the_stream_beside_it() -> None:
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    (stream,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (source,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(source, "docs/adapters.md", "exec"), names)  # noqa: S102 - the code that users copy
    smith, call = names["Smith"](), AgentCall("smith", "Mend it", model="large-2")
    story: list[tuple[EventType, dict[str, Any]]] = []
    transcript = Transcript(lambda type_, payload: story.append((type_, payload)))

    start = smith.start(call, session="c-7")
    for line in stream.encode().splitlines():
        outcome = parse_json_line(line)
        assert outcome is not None
        smith.read(outcome, transcript, call)

    assert len(source.splitlines()) < 40
    assert (list(start.arguments), start.stdin) == (
        ["smith", "--json", "--model", "large-2", "--resume", "c-7"],
        "Mend it",
    )
    assert [type_ for type_, _ in story] == [EventType.TOOL_CALL, EventType.TOOL_RESULT, EventType.PROGRESS]
    assert (transcript.result, transcript.session, transcript.ended, transcript.failure) == (
        "All tests pass now.",
        "c-7",
        True,
        None,
    )
    used = transcript.usage["all"]
    assert (used.model, used.input_tokens, used.cached_input_tokens, used.output_tokens) == ("large-2", 1200, 800, 60)
    assert used.cost_usd == Decimal("0.0042")
