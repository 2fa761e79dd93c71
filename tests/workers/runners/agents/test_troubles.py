"""Test how providers' errors appear in the output of each agent's program, and how the attempt ends."""

# ruff: noqa: RUF012, FBT001 - constants of tests, parameters of tests

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.adapters.account_store import Accounts
from coordination.base.host import host
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.sources import ROOT
from tests.support.stand_in import StandIn
from workers.runners.agent import agent_end
from workers.runners.agents.adapters import ADAPTERS
from workers.runners.agents.base import Transcript
from workers.runners.agents.failures import classify_failure
from workers.runners.agents.lines import JsonLines
from workers.runners.program import Interruption, ProgramResult
from workers.runners.provider_environment import ProviderVariables

STREAMS = ROOT / "tests" / "data" / "agent_streams"
DONE, FAILED, WAITS = Outcome.COMPLETED, Outcome.FAILED, Outcome.DEFERRED
TOO_LONG = timedelta(seconds=60)
HOME = Path("/home/ada/jobs")


def recorded() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.stem.partition("-")[0], json.loads(line))
        for path in sorted(STREAMS.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def read(agent: str, *lines: object, code: int | None = 0, stderr: str = "") -> tuple[Transcript, dict[str, Any]]:
    """Return the result of an agent whose program printed these lines; *code* None: it then was silent for too long."""
    call, adapter = AgentCall(agent, "work"), ADAPTERS[agent]
    transcript = Transcript(lambda _type, _payload: None)
    cut = JsonLines(lambda line: adapter.read(line, transcript, call), lambda _line: None, transcript.remarks.append)
    for line in lines:
        cut.feed((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
    cut.close()
    transcript.cut_off()
    advice = adapter.login.advice(agent, ProviderVariables(Accounts(HOME), None, (), named=()))
    ran = ProgramResult(code, Interruption.stalled(TOO_LONG.total_seconds()) if code is None else None, stderr)
    return transcript, agent_end(
        ran, transcript, call, advice=advice, account="somebody", printed="", complaints=stderr
    )[0]


def fields(agent: str, *lines: object, code: int | None = 0, stderr: str = "") -> dict[str, Any]:
    return read(agent, *lines, code=code, stderr=stderr)[1]


# The outcome of each recorded case, and whether it is repeated. claude itself reports that a 403 concerns the log-in.
EXPECTED = {
    "hello": (DONE, True),
    "400": (FAILED, False),
    "401": (FAILED, False),
    "403": (FAILED, False),
    "429": (WAITS, True),
    "500": (WAITS, True),
    "529": (WAITS, True),
    "drop": (WAITS, True),
    "nokey": (FAILED, False),
    "nosetup": (FAILED, False),
}


@pytest.mark.parametrize(("agent", "one"), [pytest.param(a, one, id=f"{a}-{one['case']}") for a, one in recorded()])
def test_recorded_streams_of_the_tried_versions(agent: str, one: Mapping[str, Any]) -> None:
    transcript, end = read(agent, *one["stdout"], code=one["exit"], stderr=one["stderr"])

    outcome, repeatable = EXPECTED[one["case"]]
    if (agent, one["case"]) == ("opencode", "nokey"):
        repeatable = True  # it does not report the error, only where to read it
        assert "opencode auth list" in end["error"]
    assert (end["outcome"], end.get("retryable", True)) == (outcome, repeatable)
    if one["case"] == "hello":
        assert transcript.result == "Done"
    elif one["case"] in {"401", "nokey", "nosetup"} and not repeatable:
        assert f"{agent} is not logged in where this worker runs: " in end["error"]
        assert "(it said: " in end["error"]


S = {"session_id": "s"}
USED = {"claude-sonnet-4-5": {"inputTokens": 9, "outputTokens": 2, "costUSD": 4.73}}


def text_message(text: str, id_: str = "m1", model: str = "claude-sonnet-4-5", **more: Any) -> dict[str, Any]:
    message = {"id": id_, "model": model, "content": [{"type": "text", "text": text}], "usage": {"input_tokens": 9}}
    return {"type": "assistant", "message": message, **S, **more}


def result(**more: Any) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, **S, **more}


GOOD = result(result="All done.", total_cost_usd=4.73, modelUsage=USED)
EMPTY = result(
    subtype="error_during_execution",
    is_error=True,
    num_turns=0,
    total_cost_usd=0,
    modelUsage={},
    errors=["only prompt commands are supported", "AxiosError: Request failed with status code 403 at telemetry"],
)


class TestClaude:
    @pytest.mark.parametrize("code", [0, 1])
    @pytest.mark.parametrize(
        "lines", [(text_message("x"), GOOD, EMPTY), (EMPTY, text_message("x"), GOOD), (GOOD, EMPTY, EMPTY)]
    )
    def test_a_second_empty_result_changes_nothing(self, lines: tuple[object, ...], code: int) -> None:
        transcript, end = read("claude", *lines, code=code)

        assert (end["outcome"], transcript.result) == (DONE, "All done.")
        assert [used.cost_usd for used in transcript.usage.values()] == [Decimal("4.73")]

    def test_a_second_result_after_more_was_said_counts(self) -> None:
        broke = result(is_error=True, api_error_status=529, result="API Error: 529", modelUsage=USED)

        assert fields("claude", text_message("x"), GOOD, text_message("more", "m2"), broke, code=1)["outcome"] is WAITS

    def test_an_empty_result_alone_is_a_failure(self) -> None:
        end = fields("claude", EMPTY, code=1)

        assert (end["outcome"], end["retryable"]) == (FAILED, True)
        assert "only prompt commands" in end["error"], "its words are kept"

    @pytest.mark.parametrize("is_error", [True, False])
    def test_what_its_program_says_in_its_place_is_no_answer(self, is_error: bool) -> None:
        words = "You've hit your session limit · resets 3pm (Europe/Berlin)"
        lines = [
            text_message("I look"),
            text_message(words, "m2", "<synthetic>"),
            result(is_error=is_error, result=words),
        ]

        transcript, end = read("claude", *lines, code=int(is_error))

        assert (end["outcome"], transcript.result) == (WAITS, None)
        limit = end["limit"]
        assert (limit.account, limit.window) == ("somebody", "5-hour")
        assert end["not_before"] == limit.resets_at is not None

    def test_an_answer_after_a_synthetic_message_is_one(self) -> None:
        lines = [
            text_message("API Error: 500", "m1", "<synthetic>", error="server_error"),
            text_message("All done.", "m2"),
            GOOD,
        ]

        assert fields("claude", *lines)["outcome"] is DONE

    @pytest.mark.parametrize("words", ["No response requested.", "You've hit your session limit · resets 3pm"])
    @pytest.mark.parametrize("second", ["", None])
    def test_what_is_said_in_its_place_after_it_was_done_is_no_failure(self, words: str, second: str | None) -> None:
        last = result(result=words if second is None else second)

        transcript, end = read("claude", text_message("x"), GOOD, text_message(words, "m2", "<synthetic>"), last)

        assert (end["outcome"], transcript.result) == (DONE, "All done.")

    def test_what_was_said_in_its_place_counts_where_no_result_came(self) -> None:
        end = fields(
            "claude", text_message("x"), text_message("API Error: 529 Overloaded", "m2", "<synthetic>"), code=1
        )

        assert (end["outcome"], end["error"]) == (WAITS, "API Error: 529 Overloaded")

    def test_a_limit_that_was_told_before_names_window_and_reset(self) -> None:
        resets = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
        info = {"status": "rejected", "resetsAt": resets, "rateLimitType": "seven_day"}
        event = {"type": "rate_limit_event", "rate_limit_info": info, **S}
        broke = result(is_error=True, api_error_status=429, result="API Error: Request rejected (429)")

        limit = fields("claude", event, broke, code=1)["limit"]
        allowed = {**event, "rate_limit_info": {**info, "status": "allowed_warning"}}

        assert (limit.window, limit.resets_at) == ("weekly", datetime(2026, 12, 1, tzinfo=UTC))
        assert fields("claude", event, allowed, broke, code=1)["limit"] is None

    def test_an_event_in_the_middle_of_a_line_breaks_neither(self) -> None:
        line, event = json.dumps(GOOD), json.dumps({"type": "rate_limit_event", "rate_limit_info": {}})
        event = event.replace(": ", ":", 1)

        for torn in ((line[:20] + event + line[20:],), (line[:20] + event, line[20:])):
            transcript, end = read("claude", *torn)

            assert (end["outcome"], transcript.result) == (DONE, "All done.")

    def test_a_message_that_is_told_again_is_paid_once(self) -> None:
        transcript, _ = read("claude", text_message("a"), text_message("b"), text_message("c", "m2"))

        assert len(transcript.usage) == 2

    def test_refused_tools_are_counted_once(self) -> None:
        part = {"type": "tool_result", "tool_use_id": "t1", "is_error": True, "content": "you haven't granted it yet"}
        denied = [{"tool_name": "Write", "tool_use_id": "t1"}, {"tool_name": "Bash", "tool_use_id": "t2"}]
        lines = [{"type": "user", "message": {"content": [part]}}, result(result="x", permission_denials=denied)]

        assert read("claude", *lines)[0].refused == {"t1", "t2"}

    def test_one_that_keeps_asking_a_busy_provider_for_too_long_is_charged_to_nobody(self) -> None:
        retry = {"type": "system", "subtype": "api_retry", "error_status": 529, "error": "overloaded", **S}

        waits = fields("claude", retry, code=None)

        assert waits["outcome"] is WAITS
        assert "no output for 60 s" in waits["error"]
        assert fields("claude", retry, text_message("on it"), code=None)["outcome"] is Outcome.TIMED_OUT


class TestCodex:
    STARTED = ({"type": "thread.started", "thread_id": "t"}, {"type": "turn.started"})
    ANSWER = {"type": "item.completed", "item": {"type": "agent_message", "text": "All done."}}
    COMPLETED = {"type": "turn.completed", "usage": {"input_tokens": 9, "output_tokens": 2}}

    def test_a_usage_limit_is_waited_for_until_it_is_lifted(self) -> None:
        words = "You've hit your usage limit. Upgrade to Pro or try again in 2 hours 3 minutes."
        failed = ({"type": "error", "message": words}, {"type": "turn.failed", "error": {"message": words}})

        end = fields("codex", *self.STARTED, *failed, code=1)

        assert (end["outcome"], end["error"]) == (WAITS, words)
        assert timedelta(hours=2) < end["limit"].resets_at - datetime.now(UTC) < timedelta(hours=2, minutes=4)

    def test_an_error_that_it_goes_on_after_is_overcome(self) -> None:
        error = {"type": "error", "message": "Reconnecting... 1/5 (stream disconnected before completion)"}

        assert fields("codex", *self.STARTED, error, self.ANSWER, self.COMPLETED)["outcome"] is DONE
        assert fields("codex", *self.STARTED, error, code=1)["outcome"] is WAITS

    def test_what_comes_after_its_end_is_a_remark(self) -> None:
        error = {"type": "error", "message": "failed to send analytics: 403 Forbidden"}

        transcript, end = read("codex", *self.STARTED, self.ANSWER, self.COMPLETED, error, code=1)

        assert end["outcome"] is DONE
        assert any("after it was done: failed to send" in remark for remark in transcript.remarks)


class TestOpenCode:
    def error(self, name: str = "APIError", **data: Any) -> dict[str, Any]:
        return {"type": "error", "sessionID": "s", "error": {"name": name, "data": data}}

    def finish(self, reason: str, **tokens: int) -> dict[str, Any]:
        return {"type": "step_finish", "sessionID": "s", "part": {"id": "p", "reason": reason, "tokens": tokens}}

    START = {"type": "step_start", "sessionID": "s", "part": {"id": "p0"}}
    TEXT = {"type": "text", "sessionID": "s", "part": {"text": "All done."}}

    @pytest.mark.parametrize("code", [0, 1])
    def test_an_error_that_it_goes_on_after_is_overcome(self, code: int) -> None:
        long = self.error("ContextOverflowError", message="the conversation is too long; compacting")

        transcript, end = read("opencode", self.START, long, self.START, self.TEXT, self.finish("stop"), code=code)

        assert (end["outcome"], transcript.result) == (DONE, "All done.")

    def test_an_error_of_a_request_on_the_side_after_its_end_is_a_remark(self) -> None:
        side = self.error(message="Forbidden", statusCode=403)

        assert fields("opencode", self.START, self.TEXT, self.finish("stop"), side, code=1)["outcome"] is DONE

    @pytest.mark.parametrize(
        ("reason", "outcome", "retryable"),
        [("error", WAITS, True), ("length", FAILED, False), ("unknown", WAITS, True)],
    )
    def test_how_its_last_answer_ended_decides(self, reason: str, outcome: Outcome, retryable: bool) -> None:
        end = fields("opencode", self.START, self.TEXT, self.finish(reason))

        assert (end["outcome"], end.get("retryable", True)) == (outcome, retryable)

    def test_a_provider_that_gives_no_reason_but_counts_has_answered(self) -> None:
        assert fields("opencode", self.START, self.TEXT, self.finish("unknown", input=9))["outcome"] is DONE

    def test_the_time_that_its_provider_asks_for_is_kept(self) -> None:
        busy = self.error(message="slow down", statusCode=429, responseHeaders={"retry-after": "120"})

        end = fields("opencode", busy, code=1)

        assert timedelta(seconds=100) < end["not_before"] - datetime.now(UTC) < timedelta(seconds=121)


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "opencode"])
def test_a_program_that_only_complains_is_understood(agent: str) -> None:
    limit = fields(agent, code=1, stderr="warning: x\nError: You've hit your weekly limit · resets in 2 days\n\n")
    login = fields(agent, code=41, stderr="Error: Not logged in. Please run /login\n")
    other = fields(agent, code=1, stderr="npm ERR! 404 Not Found\n")

    assert (limit["outcome"], limit["limit"].window) == (WAITS, "weekly")
    assert (login["outcome"], login["retryable"]) == (FAILED, False)
    assert (other["outcome"], other.get("retryable", True)) == (FAILED, True)


def test_a_log_in_names_the_variable_and_the_command() -> None:
    end = fields("codex", {"type": "turn.failed", "error": {"message": "unexpected status 401 Unauthorized"}}, code=1)

    assert end["error"] == (
        "codex is not logged in where this worker runs: set CODEX_API_KEY or OPENAI_API_KEY in the environment of the"
        f" worker on {host()}, and start it again, or log in with codex login as the user of the worker, or keep it"
        " there in an account: COORD_HOME=/home/ada/jobs coord accounts set codex@work CODEX_API_KEY, and write"
        " account: codex@work (it said: unexpected status 401 Unauthorized)"
    )


def test_an_unnamed_reset_is_waited_for_a_while() -> None:
    failure = classify_failure("usage limit reached")

    ended = failure.end_fields(account="x")

    assert failure.error_class is ProviderErrorClass.LIMIT
    assert ended["limit"].resets_at is None
    assert timedelta(minutes=14) < ended["not_before"] - datetime.now(UTC) <= timedelta(minutes=15)


class TestOneThatDoesNotExit:
    def run(self, bench: Bench, stand_in: StandIn, last: dict[str, Any], **claim: Any) -> AttemptEnd:
        command = stand_in(text_message("All done."), last, then=f"echo {shlex.quote('x')} >&2; sleep 600")
        return bench.run({"agent": "claude", "prompt": "Do it", "command": command}, **claim)

    def test_it_is_ended_and_counts_as_it_said(self, bench: Bench, stand_in: StandIn) -> None:
        outcome = self.run(bench, stand_in, GOOD, stall_timeout=timedelta(seconds=1))

        assert (outcome.outcome, outcome.output, outcome.error) == (DONE, "All done.", None)
        assert "did not exit" in (outcome.log or "")
        assert bench.left_behind() == []

    def test_its_failure_stays_one(self, bench: Bench, stand_in: StandIn) -> None:
        refused = result(is_error=True, api_error_status=400, result="no")

        outcome = self.run(bench, stand_in, refused, timeout=timedelta(seconds=1))

        assert (outcome.outcome, outcome.error, outcome.retryable) == (FAILED, "no", False)
