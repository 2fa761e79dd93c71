"""Test errors: one tree; each has a code of its own, an exit code, an HTTP status, and one sentence on one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.base import errors
from coordination.base.errors import CoordinationError, FormatError, IllegalMove, PlanError, Refused


def tree(root: type[CoordinationError] = CoordinationError) -> Iterator[type[CoordinationError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


ALL = [error for error in tree() if error.__module__.startswith(("coordination", "workers"))]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in ALL]

    assert len(set(codes)) == len(codes) > 10


@pytest.mark.parametrize("error", ALL)
def test_every_error_has_an_exit_code_and_an_http_status_and_stands_in_the_docs(error: type[CoordinationError]) -> None:
    page = Path("docs/errors.md").read_text(encoding="utf-8")

    row = next(line for line in page.splitlines() if line.startswith(f"| {error.__name__} |"))

    assert 1 <= error.exit_code <= 255
    assert 400 <= error.http_status <= 599
    assert row.split(" | ")[2:5] == [f"`{error.code}`", str(error.exit_code), str(error.http_status)]


def test_an_error_that_is_not_the_callers_to_mend_ends_a_command_with_another_code_than_a_refusal() -> None:
    assert {error.code: error.exit_code for error in ALL if error.exit_code != errors.REFUSED} == {
        "error": errors.NOT_COMPLETED,
        "stack_gone": errors.NOT_COMPLETED,
        "stack_stopped": errors.INTERRUPTED,
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((CoordinationError, 500), (errors.SettingsError, 500), (Refused, 400), (PlanError, 422), (FormatError, 422)),
        *((errors.TokenRefused, 401), (errors.NotFound, 404), (errors.Conflict, 409), (errors.IllegalMove, 409)),
        *((errors.Unavailable, 503), (errors.DatabaseUnavailable, 503), (errors.StackGoneError, 503)),
    ],
)
def test_an_error_has_the_http_status_of_its_kind(error: type[CoordinationError], status: int) -> None:
    assert error.http_status == status


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    classes = {word for word in (errors.__doc__ or "").split() if isinstance(getattr(errors, word, None), type)}

    assert classes == {kind.__name__ for kind in tree() if kind.__module__ == errors.__name__}


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
