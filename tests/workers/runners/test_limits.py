"""Test jobs that exceed a limit: they end whole, within seconds, with a message of the cause. Real processes."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.speed import patience
from workers.runners import orphan_reaper
from workers.runners.registry import Runners

MB = 1 << 20

HOGS = {
    "eats": "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (8 << 20)); time.sleep(0.005)\n",
    "its children eat": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        held = bytearray(b'x') * (60 << 20)\n"
        "        time.sleep(600)\ntime.sleep(600)\n"
    ),
    "a daemon eats": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        held = bytearray(b'x') * (200 << 20)\n        time.sleep(600)\n    os._exit(0)\n"
        "os.wait()\ntime.sleep(600)\n"
    ),
}
FUNCTIONS = """
import os, resource, subprocess, sys, time

def eats():
    held = []
    while True:
        held.append(bytearray(b"x") * (8 << 20))
        time.sleep(0.005)

def child_eats():
    subprocess.run([sys.executable, "-c", "import time; held = bytearray(b'x') * (200 << 20); time.sleep(600)"])

def burns(seconds=600):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return "done"

def opens():
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
    except OSError as error:
        return [len(held), error.strerror]

def prints():
    while True:
        print("x" * 1000)

def pid():
    time.sleep(0.1)
    return os.getpid()
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    runners = Runners()
    bench = Bench(runners, tmp_path / "scratch")
    (tmp_path / "hogs.py").write_text(FUNCTIONS)
    yield bench
    left = bench.left_behind()
    runners.close()
    assert left == []
    assert orphan_reaper.find([os.fsencode(runners.launcher.marker)]) == []


def script(source: str) -> dict[str, Any]:
    return {"shell": f"{shlex.quote(sys.executable)} -c {shlex.quote(source)}"}


def run(bench: Bench, work: dict[str, Any], **limits: Any) -> tuple[AttemptEnd, float]:
    """Return the job's end, and how long it took."""
    began = time.monotonic()
    options = {"limits": Limits(**limits).to_json()}
    result = bench.run(work, options=options, python_path=(str(bench.scratch.parent),))
    return result, time.monotonic() - began


class TestMemory:
    @pytest.mark.parametrize("how", HOGS)
    def test_a_job_that_eats_memory_is_ended_with_all_its_children(self, bench: Bench, how: str) -> None:
        result, took = run(bench, script(HOGS[how]), memory=150 * MB)

        assert result.outcome is Outcome.FAILED
        assert result.error is not None
        assert result.error.startswith("used ")
        assert result.error.endswith(" MiB of memory; it may use 150 MiB")
        assert took < patience(10)
        assert bench.left_behind() == []

    @pytest.mark.parametrize("how", ["eats", "child_eats"])
    def test_so_is_a_function_with_its_process_and_the_next_one_gets_another(self, bench: Bench, how: str) -> None:
        before, _ = run(bench, {"python": "hogs:pid"}, memory=150 * MB)

        result, took = run(bench, {"python": f"hogs:{how}"}, memory=150 * MB)

        assert result.outcome is Outcome.FAILED
        assert "it may use 150 MiB" in (result.error or "")
        assert took < patience(10)
        after, _ = run(bench, {"python": "hogs:pid"}, memory=150 * MB)
        assert after.outcome is Outcome.COMPLETED
        assert after.output != before.output

    def test_pages_that_processes_share_count_once(self, bench: Bench) -> None:
        source = (
            "import os, time\nheld = bytearray(b'x') * (90 << 20)\n"
            "for _ in range(4):\n    if os.fork() == 0:\n        time.sleep(1.5); os._exit(0)\n"
            "for _ in range(4):\n    os.wait()\nprint('done')\n"
        )

        result, _ = run(bench, script(source), memory=200 * MB)

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "done")

    def test_a_job_within_its_limit_is_left_alone(self, bench: Bench) -> None:
        source = "import time; held = bytearray(b'x') * (50 << 20); time.sleep(1.5); print('done')"

        result, _ = run(bench, script(source), memory=150 * MB)

        assert (result.outcome, result.output) == (Outcome.COMPLETED, "done")


class TestProcessorTime:
    @pytest.mark.parametrize(
        "source",
        [
            "while True: pass",
            "import subprocess, sys\nwhile True: subprocess.run([sys.executable, '-c', 'sum(range(3_000_000))'])",
        ],
        ids=["alone", "in many short children"],
    )
    def test_a_job_that_burns_its_time_is_ended(self, bench: Bench, source: str) -> None:
        result, _ = run(bench, script(source), cpu=timedelta(seconds=1))

        assert (result.outcome, result.error) == (Outcome.FAILED, "used more than its 1 s of processor time")

    def test_a_function_has_its_own_time_whatever_its_process_used_before(self, bench: Bench) -> None:
        short, long = {"python": "hogs:burns", "args": {"seconds": 0.7}}, {"python": "hogs:burns"}

        fine = [run(bench, short, cpu=timedelta(seconds=2))[0].outcome for _ in range(4)]
        ended, _ = run(bench, long, cpu=timedelta(seconds=2))

        assert fine == [Outcome.COMPLETED] * 4
        assert (ended.outcome, ended.error) == (Outcome.FAILED, "used more than its 2 s of processor time")

    def test_time_that_passes_is_no_processor_time(self, bench: Bench) -> None:
        assert run(bench, {"shell": "sleep 2; echo done"}, cpu=timedelta(seconds=1))[0].output == "done"


class TestFiles:
    @pytest.mark.parametrize("kind", ["shell", "python"])
    def test_a_job_opens_no_more_files_than_it_may(self, bench: Bench, kind: str) -> None:
        source = f"import sys; sys.path.insert(0, {str(bench.scratch.parent)!r}); import hogs; print(hogs.opens())"
        work = script(source) if kind == "shell" else {"python": "hogs:opens"}

        result, _ = run(bench, work, files=64)

        assert result.outcome is Outcome.COMPLETED
        opened = result.output if isinstance(result.output, list) else eval(result.output)  # noqa: S307 - our own list
        assert 30 < opened[0] < 64
        assert opened[1] == "Too many open files"

    def test_functions_with_other_limits_run_in_other_processes(self, bench: Bench) -> None:
        few, many = (run(bench, {"python": "hogs:pid"}, files=files)[0].output for files in (64, 128))
        again, _ = run(bench, {"python": "hogs:pid"}, files=64)

        assert few != many
        assert again.output == few

    def test_a_limit_beyond_the_workers_own_is_the_workers_own(self, bench: Bench) -> None:
        assert run(bench, {"shell": "echo done"}, files=999_999_999)[0].output == "done"


class TestOutput:
    @pytest.mark.parametrize("work", [{"shell": "yes"}, {"python": "hogs:prints"}], ids=["shell", "python"])
    def test_a_job_that_prints_without_end_is_ended(self, bench: Bench, work: dict) -> None:
        result, took = run(bench, work, output=5 * MB)

        assert (result.outcome, result.error) == (Outcome.FAILED, "printed more than 5 MiB")
        assert took < patience(10)


def test_a_worker_allows_no_more_than_its_settings_say(bench: Bench) -> None:
    job = bench.start(
        script(HOGS["eats"]),
        control={"limits": Limits(memory=100 * MB)},
        options={"limits": {"memory": 5_000 * MB}},
    )

    assert "it may use 100 MiB" in (job.end().error or "")


def test_what_is_limited_still_finds_its_program_and_gets_its_arguments(bench: Bench) -> None:
    work = {"agent": "custom", "prompt": "a 'b' \"c\" $d", "command": ["printf", "%s|", "{prompt}", "x y", ""]}

    result, _ = run(bench, work, files=64, cpu=timedelta(seconds=5))

    assert result.output == "a 'b' \"c\" $d|x y||"
