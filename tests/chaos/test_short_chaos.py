"""Test a short run on each store, always with the same seeds, before the long runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.run import Options, run
from tests.support.services import missing

KEPT = Path(os.environ.get("COORD_CHAOS_KEPT", ".coord/chaos"))


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("store", "seed"), [("sqlite", 101), ("postgresql", 102)])
def test_every_promise_is_kept_through_a_short_storm(store: str, seed: int) -> None:
    messages: list[str] = []
    options = Options(seed=seed, minutes=0.25, store=store, backlog=60, rate=4, keep=KEPT / f"short-{store}")

    try:
        report = run(options, messages.append)
    except ImportError as error:
        missing(store, error)

    assert not report.violations, "\n".join(
        [
            *(f"{violation.kind}: {violation.what}" for violation in report.violations),
            *messages,
            f"again: {options.replay}",
        ]
    )
    assert report.count >= 10
    assert report.tasks >= 40
