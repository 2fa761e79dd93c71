"""Provide a checkout, and a worker that runs attempts in its worktrees; no test may leave files behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repositories import Checkout, Site
from workers.runners.registry import Runners


@pytest.fixture
def runners() -> Iterator[Runners]:
    created = Runners()
    yield created
    created.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "my shop")


@pytest.fixture
def site(runners: Runners, checkout: Checkout, tmp_path: Path) -> Iterator[Site]:
    created = Site(runners, checkout, tmp_path / "the site")
    yield created
    assert created.left_behind() == []
    assert checkout.is_untouched()
