"""Homes with short paths, as users have them: the folders that pytest makes are too long for a socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="coord-home-"))
    yield folder / "home"
    shutil.rmtree(folder)
