"""Test limits that the system enforces: a soft one that a job may notice, and a hard one that it cannot raise."""

from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest

from coordination.domain.jobs.resource_limits import NO_LIMITS, Limits
from workers.runners.system_limits import add_limits, ran_out_of_cpu

SHOW = ["/bin/sh", "-c", 'echo "$(ulimit -S -t) $(ulimit -H -t) $(ulimit -S -n) $(ulimit -H -n) $1"', "sh", "a  b"]


def shown(limits: Limits) -> list[str]:
    """Return the soft and hard limits of processor time and files in the limited program, and its last argument."""
    done = subprocess.run(add_limits(SHOW, limits), capture_output=True, text=True, check=True)
    return done.stdout.removesuffix("\n").split(" ", 4)


@pytest.mark.parametrize(("cpu", "soft"), [(timedelta(seconds=2), "2"), (timedelta(seconds=2.1), "3")])
def test_processor_time_has_a_hard_limit_soon_after_the_soft_one(cpu: timedelta, soft: str) -> None:
    assert shown(Limits(cpu=cpu))[:2] == [soft, str(int(soft) + 5)]


def test_open_files_have_a_hard_limit() -> None:
    assert shown(Limits(files=64))[2:4] == ["64", "64"]


def test_arguments_reach_the_program_as_they_are() -> None:
    assert shown(Limits(cpu=timedelta(seconds=9), files=64))[4] == "a  b"
    assert add_limits(SHOW, NO_LIMITS) == SHOW


@pytest.mark.parametrize(("exit_code", "ran_out"), [(-24, True), (152, True), (-9, False), (24, False), (None, False)])
def test_a_process_that_ran_out_of_processor_time_is_known_by_its_exit_code(
    exit_code: int | None,
    ran_out: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert ran_out_of_cpu(exit_code) is ran_out
