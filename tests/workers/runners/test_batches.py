"""Test batches of Python jobs in one warm process: jobs that share a batch never share a failure."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from tests.support.jobs import FUNCTIONS, claim_of
from tests.support.processes import until
from tests.support.speed import patience
from workers.runners import interpreter, python_callable
from workers.runners.base import Control, StopReason
from workers.runners.interpreter import Interpreter, InterpreterAnswers, InterpreterKey, PrintedOutput
from workers.runners.program import OutputReader
from workers.runners.registry import Runners


@dataclass
class Board:
    """Records what a batch reports. ``stop_at``: the job whose line carries a request to stop."""

    scratch: Path
    results: dict[int, AttemptEnd] = field(default_factory=dict)
    took: dict[int, float] = field(default_factory=dict)  # seconds
    alone: list[int] = field(default_factory=list)
    stop_at: int | None = None
    interrupt_fd: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))

    def control(self, index: int, *, began: float) -> Control:
        assert began <= time.monotonic()
        self.alone.append(index)
        control = Control(scratch=self.scratch, cancel_grace=timedelta(seconds=1))
        if index == self.stop_at:
            control.stop(StopReason.CANCELED)
        return control

    def collect(self, index: int, result: AttemptEnd, took: timedelta, size: int = 0) -> None:
        assert index not in self.results
        assert took >= timedelta(0)
        self.results[index] = result
        self.took[index] = took.total_seconds()


@pytest.fixture
def runners() -> Iterator[Runners]:
    runners = Runners()
    yield runners
    runners.close()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board(tmp_path / "scratch")
    yield board
    os.close(board.interrupt_fd)


def run(runners: Runners, board: Board, claims: Sequence[Claim]) -> int:
    """Run a batch and return how many of its jobs were completed."""
    with Control(scratch=board.scratch) as settings:
        return runners.python.run_batch(claims, board, settings=settings)


def run_all(runners: Runners, board: Board, claims: Sequence[Claim]) -> None:
    """Run all jobs as a worker does: those that are left are requested again."""
    done = 0
    while done < len(claims):
        part = Board(board.scratch, interrupt_fd=board.interrupt_fd)
        ran = run(runners, part, claims[done:])
        board.results |= {done + index: result for index, result in part.results.items()}
        done += ran


def call(function: str, **args: object) -> Claim:
    return claim_of({"python": f"job_functions:{function}", "args": args})


def test_every_job_of_a_batch_gets_its_own_result_and_what_it_printed(runners: Runners, board: Board) -> None:
    claims = [call("say", text=f"text {number}") for number in range(40)]

    run_all(runners, board, claims)

    assert [board.results[index].output for index in range(40)] == [f"text {number}" for number in range(40)]
    assert [board.results[index].log for index in range(40)] == [f"said text {number}\n" for number in range(40)]


def test_a_batch_goes_to_one_warm_process(runners: Runners, board: Board) -> None:
    run_all(runners, board, [call("pid") for _ in range(20)])

    assert len({board.results[index].output for index in range(20)}) == 1


def test_a_failure_is_its_jobs_own(runners: Runners, board: Board) -> None:
    claims = [call("say"), call("fail"), call("say"), claim_of({"python": "job_functions:nowhere"}), call("say")]

    run_all(runners, board, claims)

    outcomes = [board.results[index].outcome for index in range(5)]
    assert outcomes == [Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED, Outcome.FAILED, Outcome.COMPLETED]
    assert "ValueError: broken on two lines" in str(board.results[1].error)
    assert not board.results[3].retryable


def test_a_job_that_kills_its_process_costs_its_neighbours_nothing(
    runners: Runners, board: Board, tmp_path: Path
) -> None:
    evidence = tmp_path / "ran"
    claims = [call("note", path=str(evidence), text=str(number)) for number in range(20)]
    claims[7] = call("die", path=str(evidence))

    run_all(runners, board, claims)

    assert [index for index in range(20) if board.results[index].outcome is not Outcome.COMPLETED] == [7]
    assert "SIGKILL" in str(board.results[7].error)
    assert sorted(evidence.read_text().split(), key=int) == [str(number) for number in range(20) if number != 7]


def test_what_waits_behind_a_long_job_has_not_begun(runners: Runners, board: Board, tmp_path: Path) -> None:
    run_all(runners, Board(board.scratch), [call("say")])  # a warm process
    evidence = tmp_path / "ran"
    behind = [call("note", path=str(evidence), text=str(number)) for number in range(5)]

    ran = run(runners, board, [call("say"), call("nap", seconds=0.3), *behind])

    assert ran == 2
    assert board.alone == [1]
    assert board.results[1].outcome is Outcome.COMPLETED
    assert not evidence.exists()


def test_a_process_that_was_asked_to_skip_serves_the_next_batch_in_full(runners: Runners, board: Board) -> None:
    first = [call("say"), call("nap", seconds=0.05), *[call("say", text="skipped") for _ in range(5)]]
    ran = run(runners, board, first)
    second = Board(board.scratch, interrupt_fd=board.interrupt_fd)

    run_all(runners, second, [call("say", text="next") for _ in range(10)])

    assert ran < len(first)
    assert [second.results[index].output for index in range(10)] == ["next"] * 10


def test_a_request_to_stop_reaches_the_job_that_runs_and_nothing_begins_behind_it(
    runners: Runners, board: Board, tmp_path: Path
) -> None:
    run_all(runners, Board(board.scratch), [call("say")])
    evidence = tmp_path / "ran"
    board.stop_at = 0
    soon = threading.Timer(0.2, os.eventfd_write, (board.interrupt_fd, 1))
    soon.start()

    ran = run(runners, board, [call("wait"), call("note", path=str(evidence), text="1")])

    soon.join()

    assert ran == 1
    assert board.results[0].outcome is Outcome.CANCELED
    assert not evidence.exists()


def test_a_job_that_leaves_a_process_behind_retires_the_interpreter_not_the_batch(
    runners: Runners, board: Board
) -> None:
    claims = [call("pid"), call("leave_child"), call("pid")]

    run_all(runners, board, claims)

    assert [board.results[index].outcome for index in range(3)] == [Outcome.COMPLETED] * 3
    assert board.results[0].output != board.results[2].output


def slow_import(folder: Path, name: str) -> Claim:
    (folder / f"{name}.py").write_text("import time\ntime.sleep(0.3)\ndef f(): return 1\n")
    return claim_of({"python": f"{name}:f"}, workdir=str(folder))


def test_an_import_in_a_warm_process_is_no_part_of_how_long_the_job_took(
    runners: Runners, board: Board, tmp_path: Path
) -> None:
    warm, job = slow_import(tmp_path, "first"), slow_import(tmp_path, "second")
    run(runners, Board(board.scratch), [warm])

    run(runners, board, [job])

    assert board.alone == [0]
    assert board.took[0] < 0.3


START = 1.0  # seconds


@pytest.fixture
def _slow_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a new process start this slowly."""
    program = tmp_path / "slow.py"
    again = f"import runpy, time\ntime.sleep({START})\nrunpy.run_path({interpreter._PROGRAM!r}, run_name='__main__')\n"
    program.write_text(again)
    monkeypatch.setattr(interpreter, "_PROGRAM", str(program))
    monkeypatch.setattr(python_callable, "_STARTING", 60.0)
    monkeypatch.setattr(python_callable, "_MOMENT", START / 2)


@pytest.mark.usefixtures("_slow_start")
def test_the_start_of_a_process_singles_out_no_job_and_counts_for_none(runners: Runners, board: Board) -> None:
    ran = run(runners, board, [call("say") for _ in range(3)])

    assert (ran, board.alone) == (3, [])
    assert max(board.took.values()) < START / 2


@pytest.mark.usefixtures("_slow_start")
@pytest.mark.parametrize(
    "claim",
    [call("leave_child"), claim_of({"python": "job_functions:say", "env": {"OWN": "1"}})],
    ids=["it is fit for no other", "it has the environment of one job"],
)
def test_the_start_of_a_process_counts_where_every_job_needs_one(runners: Runners, board: Board, claim: Claim) -> None:
    run(runners, board, [claim])

    assert board.took[0] > START


@pytest.mark.usefixtures("_slow_start")
def test_a_process_that_does_not_start_in_time_is_looked_after_with_its_first_job(
    runners: Runners, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_callable, "_STARTING", 0.0)
    monkeypatch.setattr(python_callable, "_MOMENT", 0.02)

    ran = run(runners, board, [call("say") for _ in range(3)])

    assert (ran, board.alone) == (1, [0])
    assert board.results[0].outcome is Outcome.COMPLETED
    assert board.took[0] < START / 2


def test_costs_are_read_for_the_job_that_reported_them(runners: Runners, board: Board) -> None:
    run_all(runners, board, [call("say"), call("spend"), call("say")])

    assert [len(board.results[index].usage) for index in range(3)] == [0, 1, 0]
    assert not list(board.scratch.iterdir())


def test_jobs_of_different_environments_do_not_share_a_process(runners: Runners, board: Board) -> None:
    claims = [
        claim_of({"python": "job_functions:variable", "args": {"name": "FLAVOUR"}, "env": {"FLAVOUR": flavour}})
        for flavour in ("plain", "plain", "salt", "plain")
    ]

    run_all(runners, board, claims)

    assert [board.results[index].output for index in range(4)] == ["plain", "plain", "salt", "plain"]


def test_a_batch_that_is_larger_than_the_channel_arrives(runners: Runners, board: Board) -> None:
    claims = [call("say", text="x" * 30_000) for _ in range(12)]

    run_all(runners, board, claims)

    assert [len(str(board.results[index].output)) for index in range(12)] == [30_000] * 12


@pytest.mark.parametrize(
    "frame",
    [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x03abc", b"\0\0\0\x02{}", b"\0\0\0\x15" + b'{"state":"stale"} "x"'],
)
def test_an_answer_that_makes_no_sense_is_told_apart(frame: bytes) -> None:
    reading, writing = os.pipe()
    answers = InterpreterAnswers(1000)
    os.write(writing, frame)

    read = answers.read(reading)

    os.close(reading)
    os.close(writing)
    assert (read, list(answers.queue), answers.malformed) == (OutputReader.DONE, [], True)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_texts_are_told_apart_however_they_arrive(size: int) -> None:
    boundary = b"\x1eabcdef\n"
    printed = PrintedOutput(boundary, 1000)
    stream = b"one\x1e" + boundary + boundary + b"three\x1eabc" + boundary + b"four"

    for start in range(0, len(stream), size):
        printed.feed(stream[start : start + size])

    assert [printed.take() for _ in range(4)] == ["one\x1e", "", "three\x1eabc", "four"]


def test_a_permit_of_a_later_batch_is_none_for_what_was_withdrawn(runners: Runners) -> None:
    interpreter = runners.pool.take(InterpreterKey(None, (str(FUNCTIONS),), ()))
    shared = {"input": {}, "needs": {}, "env": {}, "cwd": "/"}

    def send(*calls: tuple[str, dict[str, object]]) -> None:
        jobs = [json.dumps({"target": f"job_functions:{name}", "args": args, **shared}) for name, args in calls]
        interpreter.send([str(FUNCTIONS)], 1000, jobs)

    send(("nap", {"seconds": patience(0.5)}), ("say", {"text": "withdrawn"}))
    until(lambda: _permits(interpreter) == 1, what="the first job begins")
    assert interpreter.withdraw() == 1
    send(("say", {"text": "next"}))  # while the first one runs, so that its permit is the next to be taken

    answers = InterpreterAnswers(1000)
    until(
        lambda: answers.read(interpreter.channel) is not OutputReader.CLOSED and len(answers.queue) == 2,
        what="two answers",
    )
    assert [answer["output"] for answer in answers.queue] == [None, "next"]
    interpreter.close()


def _permits(interpreter: Interpreter) -> int:
    return int.from_bytes(fcntl.ioctl(interpreter._permits, termios.FIONREAD, bytes(4)), sys.byteorder)
