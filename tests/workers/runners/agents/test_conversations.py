"""Test conversations that are resumed: where that is possible, billed once, and abandoned when it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordination.base.host import host
from coordination.domain.jobs import AgentCall
from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.stand_in import DONE, SAID, SESSION, StandIn, claude
from workers.runners.agents.adapters import ADAPTERS

THREAD = {"type": "thread.started", "thread_id": "t-1"}


def turn(read: int, written: int) -> dict[str, Any]:
    return {"type": "turn.completed", "usage": {"input_tokens": read, "output_tokens": written}}


def carried(session: str, agent: str = "claude", **more: Any) -> dict[str, Any]:
    return {"conversation": {"agent": agent, "session": session, "host": host(), "turn": 1, **more}}


def test_a_session_is_left_to_the_next_attempt_even_if_this_one_is_lost(bench: Bench, stand_in: StandIn) -> None:
    left: list[Any] = []

    result = bench.start(claude(stand_in(SESSION, SAID, DONE)), control={"on_remember": left.append}).end()

    assert result.carry_over == left[-1] == carried("b658")


@pytest.mark.parametrize(
    ("before", "resumes"),
    [
        (carried("b1"), True),
        (carried("b1", agent="codex"), False),
        ({"conversation": {"agent": "claude", "session": "b1", "host": "elsewhere"}}, False),
        ({"conversation": None}, False),
        ({"conversation": "rubbish"}, False),
        (carried(5), False),  # type: ignore[arg-type]
    ],
)
def test_it_is_taken_up_by_the_same_agent_on_the_same_machine(
    bench: Bench,
    stand_in: StandIn,
    before: dict[str, Any],
    *,
    resumes: bool,
) -> None:
    command = stand_in(SESSION, DONE, first='echo "$*" >&2')

    log = bench.run(claude(command), carried_over=before).log or ""

    assert ("--resume b1" in log) is resumes


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("claude", ["--resume", "s-1"]),
        ("codex", ["resume", "s-1", "-"]),
        ("gemini", ["--resume", "s-1"]),
        ("opencode", ["-s", "s-1"]),
    ],
)
def test_how_each_takes_it_up(agent: str, words: list[str]) -> None:
    start = ADAPTERS[agent].start(AgentCall(agent, "Go on", args=("--more",)), "s-1")

    place = start.arguments.index(words[0])
    assert start.arguments[place : place + len(words)] == words
    assert "--more" in start.arguments
    assert start.stdin == "Go on"


def test_a_custom_one_takes_it_up_as_its_job_says(bench: Bench, stand_in: StandIn) -> None:
    text = {"id": "s-{prompt}", "answer": "done"}
    (program,) = stand_in(text, first='echo "$*" >&2')
    job = {
        "agent": "custom",
        "prompt": "Mend {session}",
        "command": [program, "begin"],
        "resume": [program, "on", "--with={session}", "{prompt}"],
        "reads": {"format": "jsonl", "result": "answer", "session": "id"},
    }

    first = bench.run(job)
    second = bench.run(job, carried_over=first.carry_over)

    assert first.carry_over == carried("s-{prompt}", "custom")
    assert ((first.log or "").strip(), (second.log or "").strip()) == ("begin", "on --with=s-{prompt} Mend {session}")
    without = {name: value for name, value in job.items() if name != "resume"}
    assert bench.run(without).carry_over == {}


def test_usage_that_is_told_for_the_whole_thread_is_billed_once(bench: Bench, stand_in: StandIn) -> None:
    def codex(*lines: object) -> dict[str, Any]:
        return {"agent": "codex", "prompt": "Mend it", "model": "g-5", "command": stand_in(*lines)}

    first = bench.run(codex(THREAD, turn(100, 10)))
    second = bench.run(codex(THREAD, turn(160, 25)), carried_over=first.carry_over)
    third = bench.run(codex(THREAD, turn(160, 25)), carried_over={**first.carry_over, **second.carry_over})

    assert [(used.input_tokens, used.output_tokens, used.total_tokens) for used in first.usage] == [(100, 10, 110)]
    assert [(used.input_tokens, used.output_tokens, used.total_tokens) for used in second.usage] == [(60, 15, 75)]
    assert third.usage == ()


def test_another_thread_than_the_one_asked_for_is_billed_whole(bench: Bench, stand_in: StandIn) -> None:
    job = {"agent": "codex", "prompt": "Mend it", "model": "g-5", "command": stand_in(THREAD, turn(50, 5))}
    before = carried("t-0", "codex", counted={"g-5": {"input_tokens": 40, "output_tokens": 4}})

    assert [used.input_tokens for used in bench.run(job, carried_over=before).usage] == [50]


def test_one_that_cannot_be_taken_up_is_charged_to_nobody_and_begun_anew(bench: Bench, stand_in: StandIn) -> None:
    command = stand_in(first="echo No conversation found >&2; exit 1")

    result = bench.run(claude(command), carried_over=carried("gone"))

    assert (result.outcome, result.carry_over) == (Outcome.DEFERRED, {"conversation": None})
    assert "could not be resumed" in (result.error or "")


def test_an_agents_own_failure_ends_the_conversation(bench: Bench, stand_in: StandIn) -> None:
    failed = {**DONE, "is_error": True, "subtype": "error_during_execution"}

    result = bench.run(claude(stand_in(SESSION, SAID, failed)))

    assert (result.outcome, result.carry_over) == (Outcome.FAILED, {"conversation": None})


def test_what_is_carried_is_plain_json(bench: Bench, stand_in: StandIn) -> None:
    job = {"agent": "codex", "prompt": "x", "command": stand_in(THREAD, turn(5, 5))}

    result = bench.run(job)

    assert json.loads(json.dumps(dict(result.carry_over))) == result.carry_over


@pytest.mark.parametrize(
    "said", ["--dangerously-skip-permissions", "-x", "", " b1", "b1\n", "a b", "x" * 300, "\x1b[2J", "\u202eb1", "--"]
)
def test_an_id_that_is_no_id_becomes_no_argument(bench: Bench, stand_in: StandIn, said: str) -> None:
    """Refuse it: whoever can write to the program's output can supply an id that lifts restrictions."""
    first = bench.run(claude(stand_in({**SESSION, "session_id": said}, DONE)))
    again = stand_in(SESSION, DONE, first='printf "<%s>" "$@" >&2')

    log = bench.run(claude(again), carried_over=first.carry_over).log or ""

    assert "<--resume>" not in log
    assert not said or f"<{said}>" not in log
