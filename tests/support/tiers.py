"""Divides the tests into the quick tier (``make test``) and the rest, which only ``make test-all`` runs.

The quick tier is all tests without the marker ``full``: unit tests, everything on SQLite, the hot statements on
PostgreSQL (``hot_sql``), and a few tests with real workers (``smoke``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

DATABASES = ("sqlite", "postgres")

_TESTS = Path(__file__).resolve().parent.parent
_WITH_WORKERS = ("acceptance", "client", "upgrade")
"""Folders whose tests start workers, as far as they start processes; such a test is quick only as a ``smoke``."""


def mark_full_tier(items: Iterable[pytest.Item]) -> None:
    """Add the marker ``full`` to every test that is too slow or too special for the quick tier."""
    for item in items:
        if _is_full(item):
            item.add_marker(pytest.mark.full)


def _is_full(item: pytest.Item) -> bool:
    if item.get_closest_marker("smoke"):
        return "postgres" in _parameters(item)
    if item.get_closest_marker("network") or _starts_workers(item):
        return True
    return _needs_postgres(item) and not item.get_closest_marker("hot_sql")


def _needs_postgres(item: pytest.Item) -> bool:
    parameters = _parameters(item)
    return "postgres" in parameters or (
        "postgres_server" in getattr(item, "fixturenames", ()) and "sqlite" not in parameters
    )


def _parameters(item: pytest.Item) -> list[object]:
    callspec = getattr(item, "callspec", None)
    return list(callspec.params.values()) if callspec else []


def _starts_workers(item: pytest.Item) -> bool:
    starts_processes = "processes" in getattr(item, "fixturenames", ())
    return starts_processes and any(item.path.is_relative_to(_TESTS / folder) for folder in _WITH_WORKERS)
