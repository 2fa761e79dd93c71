"""Provide a checkout, and a worker that runs attempts in its worktrees; no test may leave files behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repositories import Checkout, Site
from workers.runners.registry import Runners


@pytest.fixture
def runners() -> Iterator[Runners]:
    made = Runners()
    yield made
    made.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "my shop")


@pytest.fixture
def site(runners: Runners, checkout: Checkout, tmp_path: Path) -> Iterator[Site]:
    made = Site(runners, checkout, tmp_path / "the site")
    yield made
    assert made.left_behind() == []
    assert checkout.is_untouched()
