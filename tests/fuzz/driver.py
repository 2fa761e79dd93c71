"""Draws inputs for a check by a seed, and reduces the one that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

T = TypeVar("T")


def drive(strategy: st.SearchStrategy[T], check: Callable[[T], None], *, seed: int, inputs: int) -> int:
    """Call *check* with so many inputs, and return their number. An error includes the input, reduced."""
    count = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @hypothesis.given(strategy)
    def each(value: T) -> None:
        nonlocal count
        count += 1
        check(value)

    each()
    return count
