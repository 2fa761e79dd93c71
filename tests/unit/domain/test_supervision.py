"""Test the status by the heartbeat's age: boundaries belong to the worse side as documented."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.domain.fleet.supervisor_status import StatusThresholds, SupervisorStatus, status_of


@pytest.mark.parametrize(
    ("minutes", "status"),
    [(0, "running"), (9.999, "running"), (10, "stale"), (60, "stale"), (60.001, "stopped"), (None, "stopped")],
)
def test_the_status_follows_from_the_age(minutes: float | None, status: str) -> None:
    age = None if minutes is None else timedelta(minutes=minutes)

    assert status_of(age, StatusThresholds()) is SupervisorStatus(status)


def test_the_thresholds_can_be_set() -> None:
    tight = StatusThresholds(stale_after=timedelta(seconds=1), stopped_after=timedelta(seconds=2))

    assert status_of(timedelta(seconds=1.5), tight) is SupervisorStatus.STALE
