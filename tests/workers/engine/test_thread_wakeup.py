"""Test what a thread that runs batches keeps open, and for how long."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from workers.engine.batch import thread_wakeup_fd


def test_a_thread_has_one_descriptor_for_all_its_batches_and_gives_it_back_when_it_ends() -> None:
    seen: list[int] = []
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())

    def work() -> None:
        seen.append(thread_wakeup_fd())
        seen.append(thread_wakeup_fd())

    for _ in range(20):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert all(first == second for first, second in zip(seen[::2], seen[1::2], strict=True))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= before


def test_a_batch_does_not_hear_what_was_meant_for_the_last_one() -> None:
    os.eventfd_write(thread_wakeup_fd(), 1)

    with pytest.raises(BlockingIOError):
        os.eventfd_read(thread_wakeup_fd())
