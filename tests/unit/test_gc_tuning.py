"""Test the garbage collector: paused while a plan is built, and restored afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from coordination.base import gc_tuning


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    gc.enable()


def test_nothing_is_collected_while_paused_and_afterwards_again() -> None:
    with gc_tuning.collection_paused():
        assert not gc.isenabled()

    assert gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="broken"), gc_tuning.collection_paused():
        raise ValueError("broken")

    assert gc.isenabled()


def test_who_never_collects_is_left_alone() -> None:
    gc.disable()

    with gc_tuning.collection_paused():
        pass

    assert not gc.isenabled()


def test_what_is_loaded_is_not_looked_at_again_and_new_garbage_still_goes() -> None:
    program = (
        "import gc; from coordination.base import gc_tuning as collector; collector.freeze_loaded_objects()\n"
        "class Node: pass\n"
        "import weakref; node = Node(); node.me = node; gone = weakref.ref(node); del node\n"
        "print(gc.get_freeze_count() > 1000, gc.collect() > 0, gone() is None)"
    )

    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert output.stdout.split() == ["True", "True", "True"]
