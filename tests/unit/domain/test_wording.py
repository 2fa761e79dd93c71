"""Test numbers with their nouns, as in sentences."""

import pytest

from coordination.base.wording import plural


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("task",), "0 tasks"),
        (1, ("task",), "1 task"),
        (2_122, ("task",), "2,122 tasks"),
        (1, ("dependency", "dependencies"), "1 dependency"),
        (3, ("dependency", "dependencies"), "3 dependencies"),
        (1, ("task waits", "tasks wait"), "1 task waits"),
    ],
)
def test_one_is_one(number: int, words: tuple[str, ...], said: str) -> None:
    assert plural(number, *words) == said
