"""Provide runners for one test, closed afterwards with no process left running, and providers to chat with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chats import Provider
from tests.support.jobs import Bench
from tests.support.model_server import Answer, running_model_server
from workers.runners.registry import Runners


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    runners = Runners()
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    runners.close()
    assert bench.left_behind() == []


@pytest.fixture
def provide(bench: Bench) -> Iterator[Any]:
    @contextmanager
    def providing(*answers: Answer) -> Iterator[Provider]:
        with running_model_server(answers) as server:
            yield Provider(bench, server)

    return providing
