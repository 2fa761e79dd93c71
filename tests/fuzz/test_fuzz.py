"""Test a hundredth of the fuzz, always with the same seeds; ``python -m tests.fuzz`` tries 10,000 inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import messages, names, reports
from tests.fuzz.__main__ import main
from tests.fuzz.driver import drive
from tests.fuzz.values import values
from tests.support.fleet import Fleet


@pytest.mark.full
@pytest.mark.parametrize("target", [reports.fuzz, messages.fuzz])
def test_a_worker_holds(fleet: Fleet, target: Callable[..., int]) -> None:
    assert target(fleet, seed=101, inputs=34) == 34


def test_names_hold(tmp_path: Path) -> None:
    assert names.fuzz(tmp_path, seed=101, inputs=32) == 32


def test_the_same_seed_draws_the_same_inputs() -> None:
    first: list[str] = []
    second: list[str] = []

    for drawn in (first, second):
        drive(values, lambda value, to=drawn: to.append(repr(value)), seed=7, inputs=50)

    assert first == second
    assert len(set(first)) > 10


def test_what_fails_is_said_with_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_folder: Path, *, seed: int, inputs: int) -> int:
        def check(value: int) -> None:
            assert value < 5, f"{value} is too much"

        from hypothesis import strategies as st

        return drive(st.integers(0, 1000), check, seed=seed, inputs=inputs)

    monkeypatch.setattr(names, "fuzz", broken)

    assert main(["--seed", "3", "--inputs", "100", "--target", "names"]) == 1

    captured = capsys.readouterr()
    assert "again: python -m tests.fuzz --seed 3 --inputs 100 --target names" in captured.out
    assert "5 is too much" in captured.err, "the smallest input that fails"
