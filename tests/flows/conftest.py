"""Provide a world in an open store, on each kind of database."""

from __future__ import annotations

import pytest

from coordination.store.engine import Store
from tests.support.world import World


@pytest.fixture
def world(store: Store) -> World:
    return World(store)
