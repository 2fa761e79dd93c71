"""Test the batch control: it notices a long job once, and costs nothing while that job runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.processes import until
from workers.engine.batch import Batch, BatchWatch


class Looks:
    """Counts the checks of each batch, and collects the batches whose waiting tasks were handed back."""

    def __init__(self) -> None:
        self.counts: dict[object, int] = {}
        self.handed_back: set[object] = set()
        self.broken: set[object] = set()

    def __call__(self, batch: Batch) -> bool:
        self.counts[batch] = self.counts.get(batch, 0) + 1
        if batch in self.broken:
            self.broken.discard(batch)
            raise RuntimeError("the database is away")
        return batch in self.handed_back


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def watch(looks: Looks) -> Iterator[BatchWatch]:
    watch = BatchWatch(looks)
    watch.start()
    yield watch
    watch.stop()


def new_batch() -> Batch:
    return cast("Batch", object())


def test_a_bundle_is_looked_at_again_until_it_is_relieved_and_then_no_more(looks: Looks, watch: BatchWatch) -> None:
    short, long = new_batch(), new_batch()
    looks.handed_back.add(long)

    watch.watch(short)
    watch.watch(long)

    until(lambda: looks.counts.get(short, 0) >= 3, what="three looks at the one that is not handed_back")
    assert looks.counts[long] == 1


def test_a_relief_that_failed_is_tried_again(looks: Looks, watch: BatchWatch) -> None:
    batch = new_batch()
    looks.broken.add(batch)
    looks.handed_back.add(batch)

    watch.watch(batch)

    until(lambda: looks.counts.get(batch, 0) == 2, what="a second look")
