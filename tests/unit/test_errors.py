"""Refusals: one tree, a code of its own for each, one sentence on one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordination.base import errors
from coordination.base.errors import CoordinationError, FormatError, IllegalMove, PlanError, Refused


def tree(root: type[CoordinationError] = CoordinationError) -> Iterator[type[CoordinationError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def test_every_refusal_has_a_code_of_its_own() -> None:
    mine = [kind for kind in tree() if kind.__module__ == errors.__name__]

    codes = [kind.code for kind in mine]

    assert len(set(codes)) == len(codes) > 10


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    named = {word for word in (errors.__doc__ or "").split() if hasattr(errors, word)}

    assert named == {kind.__name__ for kind in tree() if kind.__module__ == errors.__name__}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Refused("No"), "No."),
        (Refused("No!", hint="Say yes"), "No! Say yes."),
        (Refused("two\nlines  here", hint="and\tthere?"), "two lines here. and there?"),
        (PlanError("bad", source="plan.yaml", line=3), "plan.yaml:3: bad."),
        (PlanError("bad", line=3), "line 3: bad."),
        (FormatError("bad", source="x.jsonl"), "x.jsonl: bad."),
        (IllegalMove("complete", "queued"), "A task that is queued cannot complete."),
    ],
)
def test_a_refusal_reads_as_one_line(error: CoordinationError, sentence: str) -> None:
    assert error.sentence() == sentence
