"""Test the arithmetic of the measurements: medians, turns, ratios, percentiles."""

import os
import subprocess
import sys

import pytest

from benchmarks.measure import cpu_seconds, in_turns, own_cpu_seconds, percentile, ratios, series


def test_a_series_shows_its_median_and_how_far_the_rounds_lie_apart() -> None:
    assert series([3.0, 1.0, 2.0], "ms").shown == "2 ms (1 to 3)"
    assert series([1234.5, 20.25, 0.12345], "tasks/s").shown == "20.2 tasks/s (0.123 to 1,234)"
    assert series([2.0], "x").shown == "2x (2 to 2)"


def test_sides_take_turns_and_each_round_begins_with_another() -> None:
    called = []

    def side(name: str) -> float:
        called.append(name)
        return float(len(called))

    result = in_turns(3, {name: (lambda name=name: side(name)) for name in "abc"})

    assert "".join(called) == "abcbcacab"
    assert result == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_a_ratio_is_taken_within_each_round() -> None:
    result = ratios([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])

    assert result.values == (2.0, 3.0, 4.0)
    assert result.unit == "x"


def test_ratios_of_a_different_number_of_rounds_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([float(value) for value in reversed(range(1, 101))], share) == expected


def test_the_cpu_of_a_process_counts_what_it_started_and_waited_for() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = cpu_seconds(os.getpid())

    subprocess.run([sys.executable, "-c", burn], check=True)

    assert cpu_seconds(os.getpid()) - before > 0.25


def test_what_a_job_s_program_burns_is_not_its_worker_s() -> None:
    burn = "import time\nprint(flush=True)\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = own_cpu_seconds(os.getpid())
    argv = [sys.executable, "-c", burn]

    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["\n", "\n"]
        spent = own_cpu_seconds(os.getpid()) - before
        counted = cpu_seconds(program.pid)
        program.communicate("\n")

    assert counted > 0.45
    assert spent < 0.4


def test_the_cpu_of_a_process_that_is_gone_is_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    assert cpu_seconds(ended.pid) == 0
