"""Runners of one test's own: closed afterwards, with nothing left running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobs import Bench
from workers.runners.registry import Runners


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    runners = Runners()
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    runners.close()
    assert bench.left_behind() == []
