"""Provide homes with short paths, as users have them: the folders that pytest makes are too long for a socket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.scratch import scratch_folder


@pytest.fixture
def home() -> Iterator[Path]:
    with scratch_folder() as folder:
        yield folder / "home"
        # The child processes of a killed owner end a moment after it, and may write until then.
        until(lambda: _is_removed(folder / "home"), what="nobody writes into the home any more")


def _is_removed(folder: Path) -> bool:
    if folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
