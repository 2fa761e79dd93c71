"""Test what only shell jobs do."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from coordination.domain.jobs import templates
from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.speed import patience
from workers.runners import program, usage_file
from workers.runners.base import StopReason
from workers.runners.orphan_reaper import is_running


def test_output_is_stdout_and_the_log_is_stderr(bench: Bench) -> None:
    result = bench.run({"shell": "echo out; echo err >&2"})

    assert (result.output, result.log, result.exit_code) == ("out", "err\n", 0)


def test_a_failure_quotes_the_last_line_of_stderr(bench: Bench) -> None:
    result = bench.run({"shell": "echo first >&2; echo the reason >&2; echo >&2; exit 3"})

    assert (result.error, result.exit_code) == ("exit status 3: the reason", 3)


def test_a_failure_without_words_is_its_exit_status(bench: Bench) -> None:
    assert bench.run({"shell": "exit 4"}).error == "exit status 4"


def test_a_failure_without_words_on_stderr_quotes_the_last_line_of_stdout(bench: Bench) -> None:
    assert bench.run({"shell": "echo collected; echo 1 failed; exit 1"}).error == "exit status 1: 1 failed"
    assert bench.run({"shell": "echo 1 failed; echo why >&2; exit 1"}).error == "exit status 1: why"


def test_exit_status_75_defers(bench: Bench) -> None:
    result = bench.run({"shell": "echo quota used up >&2; exit 75"})

    assert (result.outcome, result.error) == (Outcome.DEFERRED, "exit status 75: quota used up")


def test_input_and_needs_are_in_a_file_that_is_gone_afterwards(bench: Bench) -> None:
    needs = {"count": {"state": "completed", "output": [1, "zwölf"]}}

    result = bench.run({"shell": 'cat "$COORD_INPUT"'}, input={"a": 1}, needs=needs)

    assert json.loads(result.output) == {"input": {"a": 1}, "needs": needs}
    assert list(bench.scratch.iterdir()) == []


def test_reports_are_looked_for_often_where_a_budget_waits_for_them_and_else_seldom(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (program._POLL_INTERVAL, program._SLOW_POLL_INTERVAL) == (1.0, 5.0)
    monkeypatch.setattr(program, "_POLL_INTERVAL", 0.05)
    monkeypatch.setattr(program, "_SLOW_POLL_INTERVAL", 0.4)
    looks = 0

    def look(_: usage_file.UsageFile) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(usage_file.UsageFile, "poll", look)

    bench.start({"shell": "sleep 1"}, control={"is_settled": lambda: True}).end()
    often, looks = looks, 0
    bench.start({"shell": "sleep 1"}).end()

    assert looks >= 1
    assert often > 3 * looks


def test_the_job_runs_in_its_folder(bench: Bench, tmp_path: Path) -> None:
    assert bench.run({"shell": "pwd"}, workdir=str(tmp_path)).output == str(tmp_path)


def test_a_job_without_a_folder_runs_in_an_empty_one(bench: Bench) -> None:
    result = bench.run({"shell": "ls -A | wc -l; touch file"})

    assert result.output.strip() == "0"
    assert list(bench.scratch.iterdir()) == []


def test_a_job_has_nothing_to_read(bench: Bench) -> None:
    assert bench.run({"shell": "cat; echo end"}).output == "end"


def test_a_command_that_is_too_long_is_refused_in_words(bench: Bench) -> None:
    result = bench.run({"shell": "true " + "x" * 3_000_000})

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert "pass data in a file" in (result.error or "")


@pytest.mark.parametrize(("size", "outcome"), [(100_000, Outcome.COMPLETED), (200_000, Outcome.FAILED)])
def test_a_value_of_another_task_arrives_whole_or_is_refused_in_words(
    bench: Bench, size: int, outcome: Outcome
) -> None:
    needs = {"big": {"state": "completed", "output": "$(exit 1)\n" + "x" * size}}
    work = templates.render({"shell": "printf %s {{ needs.big.output }} | wc -c"}, needs=needs, context={})

    result = bench.run(work)

    assert result.outcome is outcome
    assert str(size + 10) in result.output if outcome is Outcome.COMPLETED else "in a file" in (result.error or "")


def test_the_program_behind_the_shell_has_the_grace_too(bench: Bench, tmp_path: Path) -> None:
    program = (
        "import signal, time, pathlib\n"
        "def end(*_):\n    time.sleep(0.3); pathlib.Path('tidied').touch(); raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(600)\n"
    )
    (tmp_path / "program.py").write_text(program)
    job = bench.start({"shell": f"{shlex.quote(sys.executable)} program.py; true"}, workdir=str(tmp_path))

    job.stop(StopReason.CANCELED)

    assert job.end().exit_code == -15  # the shell ended at once
    assert (tmp_path / "tidied").exists()


LEAVES_NO_MARK = "setsid env -i /bin/sh -c 'echo $$ > pid; exec sleep 600' & while ! [ -s pid ]; do sleep 0.01; done"


def test_a_daemon_that_clears_its_environment_is_found_by_the_tag_that_it_inherits(
    bench: Bench, tmp_path: Path
) -> None:
    began = time.monotonic()

    result = bench.run({"shell": LEAVES_NO_MARK}, workdir=str(tmp_path))

    assert result.outcome is Outcome.COMPLETED
    assert time.monotonic() - began < patience(15)
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_such_a_daemon_of_another_job_lives(bench: Bench, tmp_path: Path) -> None:
    running = bench.start({"shell": f"{LEAVES_NO_MARK}; echo ready; sleep 600"}, workdir=str(tmp_path))
    running.moved.wait(patience(30))

    bench.run({"shell": "setsid env -i sleep 600 & true"}, workdir=str(tmp_path))

    assert is_running(int((tmp_path / "pid").read_text()))
    running.stop(StopReason.CANCELED)
    running.end()
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_a_daemon_that_nothing_tells_from_others_does_not_hang_the_runner(bench: Bench, tmp_path: Path) -> None:
    # It leaves the group, clears its environment and the tag, and it keeps the pipes open.
    gone = "import resource; resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))"
    program = f"import os; {gone}; open('pid', 'w').write(str(os.getpid())); os.execv('/bin/sleep', ['sleep', '600'])"
    command = f'setsid env -i {shlex.quote(sys.executable)} -S -c "{program}" & while ! [ -s pid ]; do sleep 0.01; done'
    began = time.monotonic()

    result = bench.run({"shell": command}, workdir=str(tmp_path))

    assert result.outcome is Outcome.COMPLETED
    assert time.monotonic() - began < patience(15)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_an_exit_is_noticed_at_once(bench: Bench) -> None:
    bench.run({"shell": "true"})

    delays = []
    for _ in range(7):
        result = bench.run(
            {"shell": f"exec {shlex.quote(sys.executable)} -S -c 'import time; print(time.monotonic())'"}
        )
        delays.append(time.monotonic() - float(result.output))

    assert sorted(delays)[3] < 0.1  # includes the interpreter's own end and the search for remaining processes


def test_output_counts_as_progress_for_the_stall_timeout(bench: Bench) -> None:
    result = bench.run(
        {"shell": "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"}, stall_timeout=timedelta(seconds=1)
    )

    assert result.outcome is Outcome.COMPLETED
