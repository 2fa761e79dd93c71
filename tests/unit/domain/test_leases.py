"""Test that the times of a lease are consistent."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordination.base.errors import SettingsError
from coordination.domain.fleet.leases import LeaseTerms
from tests.support.refusals import refuses


def seconds(ttl: float, heartbeat: float, sweep: float = 5) -> LeaseTerms:
    return LeaseTerms(timedelta(seconds=ttl), timedelta(seconds=heartbeat), timedelta(seconds=sweep))


def test_a_worker_cut_off_stops_its_jobs_before_anybody_else_may_start_them() -> None:
    terms = LeaseTerms()

    assert terms.heartbeat < terms.fence_after < terms.ttl
    assert terms.fence_after == timedelta(seconds=25)


def test_a_heartbeat_that_does_not_fit_twice_is_refused() -> None:
    with refuses(SettingsError, field="COORD_LEASE_HEARTBEAT"):
        seconds(30, 16)


@pytest.mark.parametrize(("ttl", "heartbeat", "sweep"), [(0, 0, 5), (30, 0, 5), (30, 10, 0), (30, -1, 5)])
def test_times_that_are_no_times_are_refused(ttl: float, heartbeat: float, sweep: float) -> None:
    with refuses(SettingsError):
        seconds(ttl, heartbeat, sweep)


def test_a_heartbeat_of_half_the_lease_just_fits() -> None:
    assert seconds(30, 15).ttl == timedelta(seconds=30)
