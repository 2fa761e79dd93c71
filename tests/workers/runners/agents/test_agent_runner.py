"""Test agents' programs as jobs. The program here is a stand-in: a script that prints what the real one printed."""

from __future__ import annotations

import json
import shlex
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.events import EventType
from tests.support.jobs import Bench
from tests.support.speed import patience
from tests.support.stand_in import DONE, SAID, SESSION, StandIn, claude
from workers.runners.agents.lines import LONGEST_LINE
from workers.runners.base import StopReason


def test_its_answer_its_price_and_its_story(bench: Bench, stand_in: StandIn) -> None:
    events: list[tuple[EventType, dict[str, Any]]] = []
    job = bench.start(
        claude(stand_in(SESSION, SAID, DONE, first="echo a warning >&2")),
        control={"on_event": lambda type_, payload: events.append((type_, payload))},
    )

    result = job.end()

    assert (result.outcome, result.output, result.error, result.log) == (
        *(Outcome.COMPLETED, "All done", None),
        "a warning",
    )
    (used,) = result.usage
    assert (used.model, used.input_tokens, used.cost_usd, used.session_id) == ("c-4", 9, Decimal("0.5"), "b658")
    assert events == [(EventType.PROGRESS, {"session": "b658"}), (EventType.PROGRESS, {"text": "I look"})]


def test_it_gets_the_prompt_on_stdin_however_long_and_its_arguments(bench: Bench, stand_in: StandIn) -> None:
    prompt = "ä" * 300_000
    first = 'printf \'{"type": "result", "result": "%s %s"}\\n\' "$(wc -c)" "$*"'

    result = bench.run(claude(stand_in(first=first), prompt=prompt, model="m", args=["--max-turns", "3"]))

    assert result.output == "600000 -p --output-format stream-json --verbose --model m --max-turns 3"


def test_what_it_used_is_told_when_it_is_stopped(bench: Bench, stand_in: StandIn) -> None:
    printed = threading.Event()
    heard = {"on_event": lambda _, payload: printed.set() if "text" in payload else None}
    job = bench.start(claude(stand_in(SESSION, SAID, then="sleep 600")), control=heard)
    assert printed.wait(patience(30))

    job.stop(StopReason.CANCELED)

    result = job.end()
    assert result.outcome is Outcome.CANCELED
    assert [(used.input_tokens, used.cost_usd) for used in result.usage] == [(7, None)]


def test_it_is_timed_out_like_any_job(bench: Bench, stand_in: StandIn) -> None:
    result = bench.run(claude(stand_in(SAID, then="sleep 600 & sleep 600")), timeout=timedelta(seconds=1))

    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "timed out after 1 s")
    assert bench.left_behind() == []


def test_a_provider_that_is_busy_is_waited_for(bench: Bench, stand_in: StandIn) -> None:
    busy = {"type": "result", "is_error": True, "api_error_status": 429, "result": "slow down"}

    result = bench.run(claude(stand_in(busy, then="exit 1")))

    assert (result.outcome, result.error) == (Outcome.DEFERRED, "slow down")


def test_a_request_that_is_refused_is_not_repeated(bench: Bench, stand_in: StandIn) -> None:
    refused = {"type": "result", "is_error": True, "api_error_status": 401, "result": "no such key"}

    result = bench.run(claude(stand_in(refused, then="exit 1")))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)


def test_one_that_ends_without_an_end_has_failed(bench: Bench, stand_in: StandIn) -> None:
    result = bench.run(claude(stand_in(SESSION, SAID)))

    assert (result.outcome, result.error) == (Outcome.FAILED, "claude ended without reporting that it was done")


def test_one_that_dies_after_its_answer_has_failed(bench: Bench, stand_in: StandIn) -> None:
    result = bench.run(claude(stand_in(DONE, then="echo out of space >&2; exit 3")))

    assert (result.outcome, result.error, result.output) == (Outcome.FAILED, "exit status 3: out of space", "All done")


def test_lines_that_are_none_of_its_own_are_passed_over(bench: Bench, stand_in: StandIn) -> None:
    result = bench.run(claude(stand_in("Loading…", "{", "[1]", DONE)))

    assert (result.outcome, result.output) == (Outcome.COMPLETED, "All done")


def test_a_line_without_end_takes_no_memory_and_is_remarked(bench: Bench, stand_in: StandIn) -> None:
    flood = f"head -c {2 * LONGEST_LINE} /dev/zero | tr '\\0' x; echo"

    result = bench.run(claude(stand_in(DONE, first=flood)))

    assert (result.outcome, result.output) == (Outcome.COMPLETED, "All done")
    assert result.log == f"[agent] a line of more than {LONGEST_LINE:,} bytes was left out"


def test_its_last_line_needs_no_line_break(bench: Bench, stand_in: StandIn) -> None:
    command = stand_in(then=f"printf %s {shlex.quote(json.dumps(DONE))}")

    assert bench.run(claude(command)).output == "All done"


def test_an_answer_without_bounds_is_cut_and_says_so(bench: Bench, stand_in: StandIn) -> None:
    result = bench.run(claude(stand_in(DONE | {"result": "x" * 50_000})), control={"output_limit": 1000})

    assert "… 49,000 bytes left out …" in result.output


def test_a_path_of_the_program_is_seen_from_the_jobs_folder(bench: Bench, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in(DONE)

    assert bench.run(claude(["./agent"]), workdir=str(tmp_path)).output == "All done"
    assert "./agent is not installed" in (bench.run(claude(["./agent"])).error or "")


@pytest.mark.parametrize(
    ("mode", "text", "says"),
    [
        (0o644, "#!/bin/sh\n", "is not executable. Make it so with chmod +x"),
        (
            0o755,
            "#!/no/such/interpreter\n",
            "cannot be started: the interpreter /no/such/interpreter in its first line",
        ),
        (0o755, "\x7fELF", "cannot be started: "),
    ],
    ids=["mode", "interpreter", "format"],
)
def test_a_program_that_is_there_and_cannot_be_started_says_why(
    bench: Bench, tmp_path: Path, mode: int, text: str, says: str
) -> None:
    program = tmp_path / "tool"
    program.write_text(text)
    program.chmod(mode)

    result = bench.run({"agent": "custom", "prompt": "x", "command": [str(program)]})

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert f"{program} {says}" in (result.error or "")


def test_a_program_that_is_not_there_is_named(bench: Bench) -> None:
    result = bench.run(claude(["no-such-agent"]))

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "no-such-agent is not installed" in (result.error or "")


class TestSecrets:
    SHOW = 'printf \'{"type": "result", "result": "%s|%s|%s"}\\n\' "$MY_SECRET" "$ANTHROPIC_API_KEY" "$OTHER_KEY"'

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_SECRET", "s3cret-value")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-0123456789")
        monkeypatch.setenv("OTHER_KEY", "never-to-be-seen")

    def test_it_gets_what_it_is_known_to_need_and_what_is_named_and_no_more(
        self, bench: Bench, stand_in: StandIn, tmp_path: Path
    ) -> None:
        seen = tmp_path / "seen"
        first = f'printf %s "$MY_SECRET|$ANTHROPIC_API_KEY|$OTHER_KEY" > {seen}'

        bench.run(claude(stand_in(DONE, first=first), secrets=["MY_SECRET"]))

        assert seen.read_text() == "s3cret-value|sk-ant-0123456789|"

    def test_their_values_are_kept_nowhere(self, bench: Bench, stand_in: StandIn) -> None:
        events: list[dict[str, Any]] = []
        text = {
            "type": "assistant",
            "message": {"id": "m", "content": [{"type": "text", "text": "It is s3cret-value"}]},
        }
        command = stand_in(text, first='echo "key $ANTHROPIC_API_KEY" >&2', then=self.SHOW + "; exit 1")

        job = bench.start(
            claude(command, secrets=["MY_SECRET"]), control={"on_event": lambda _, payload: events.append(payload)}
        )
        result = job.end()

        assert (result.output, result.error, result.log) == ("***|***|", "exit status 1: key ***", "key ***")
        assert events == [{"text": "It is ***"}]

    def test_one_that_the_worker_does_not_have_is_named(self, bench: Bench, stand_in: StandIn) -> None:
        result = bench.run(claude(stand_in(DONE), secrets=["NOWHERE"]))

        assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
        assert "no NOWHERE" in (result.error or "")


class TestCustom:
    def test_a_text_is_its_answer(self, bench: Bench, stand_in: StandIn) -> None:
        job = {"agent": "custom", "prompt": "Mend it", "command": [*stand_in(then='echo "$1"; cat'), "{prompt}!"]}

        assert bench.run(job).output == "Mend it!"

    def test_one_json_document_over_many_lines(self, bench: Bench, stand_in: StandIn) -> None:
        command = stand_in("{", '"answer": "yes",', '"used": {"usd": "0.25"}', "}")
        reads = {"format": "json", "result": "answer", "cost_usd": "used.usd"}

        result = bench.run({"agent": "custom", "prompt": "x", "command": command, "reads": reads, "model": "m"})

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "yes")
        assert [(used.model, used.cost_usd) for used in result.usage] == [("m", Decimal("0.25"))]


def test_no_file_of_a_job_is_left(bench: Bench, stand_in: StandIn) -> None:
    bench.run(claude(stand_in(DONE)))

    assert list(bench.scratch.iterdir()) == []
