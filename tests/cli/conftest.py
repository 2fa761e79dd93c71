"""Provide the command line on both kinds of database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Coord, coord_in


@pytest.fixture
def coord(tmp_path: Path) -> Coord:
    """Provide ``coord`` on an empty home: SQLite."""
    return coord_in(tmp_path)


@pytest.fixture
def coord_on_each(request: pytest.FixtureRequest, store_kind: str, tmp_path: Path) -> Coord:
    """Provide ``coord`` on SQLite, and on PostgreSQL."""
    if store_kind == "sqlite":
        return coord_in(tmp_path)
    return coord_in(tmp_path, COORD_DATABASE_URL=request.getfixturevalue("postgres_url"))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Provide a plan: a succeeds, b needs it and fails, c needs b and waits for a person."""
    path = tmp_path / "plan.yaml"
    path.write_text(
        """
version: 1
name: three
tasks:
  - {key: a, title: "say hi", run: {shell: "echo hi; echo careful >&2"}}
  - {key: b, needs: [a], run: {shell: "echo broken >&2; exit 3"}}
  - {key: c, needs: [b], run: {shell: "true"}, on_dependency_failure: block}
  - {key: d, needs: [c], run: {shell: "true"}}
"""
    )
    return path
