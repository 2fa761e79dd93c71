"""Test when the ends of a batch are written while other threads wait to run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from coordination.domain.attempts.attempt_ends import EndedAttempt
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.services.attempts.end import decide_end
from tests.support.jobs import claim_of
from workers.engine.batch import Batch
from workers.leases.in_flight import InFlightAttempt

HOUR = timedelta(hours=1)
CLAIM = claim_of({"python": "x:y"})


def new_batch() -> Batch:
    return Batch([InFlightAttempt(CLAIM, 0.0)], sent=0.0)


def end() -> EndedAttempt:
    return decide_end(CLAIM, AttemptEnd(Outcome.COMPLETED), now=datetime.now(UTC))


def test_large_results_are_not_kept_until_a_write_is_due() -> None:
    some = new_batch()
    some.add(end(), [], 3_900_000)
    assert not some.is_write_due(HOUR)

    some.add(end(), [], 200_000)

    assert some.is_write_due(HOUR)
    assert len(some.take_finished()) == 2
    assert not some.is_write_due(HOUR)


def test_ends_are_written_when_the_last_write_is_long_ago() -> None:
    assert new_batch().is_write_due(timedelta(0))
    assert not new_batch().is_write_due(HOUR)
