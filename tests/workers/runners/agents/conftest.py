"""Provide a program that stands in for an agent's program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stand_in import StandIn


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)
