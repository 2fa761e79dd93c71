"""Assertions on refusals: kind (and so code), field and line here, and the message in tests/data/refusals.txt."""

from __future__ import annotations

import re
from typing import Any, Generic, Protocol, TypeVar

import pytest

from coordination.base.errors import CoordinationError
from tests.support.golden_sentences import check_sentence

_Kind = TypeVar("_Kind", bound=CoordinationError)


class _Ended(Protocol):
    """A command that ended."""

    @property
    def code(self) -> int: ...

    @property
    def err(self) -> str: ...


class _Expectation(Generic[_Kind]):
    """A block that must be refused. No generator, whose frames would stand between a failure and its test."""

    def __init__(self, kind: type[_Kind], field: str | None, line: int | None, varies: str | None) -> None:
        self._kind = kind
        self._expected: dict[str, Any] = {"field": field, "line": line, "varies": varies}
        self._raises = pytest.raises(kind)

    def __enter__(self) -> pytest.ExceptionInfo[_Kind]:
        self._caught = self._raises.__enter__()
        return self._caught

    def __exit__(self, *details: object) -> bool:
        __tracebackhide__ = True
        if not self._raises.__exit__(*details):
            return False
        check_refusal(self._caught.value, self._kind, **self._expected)
        return True


def refuses(
    kind: type[_Kind], *, field: str | None = None, line: int | None = None, varies: str | None = None
) -> _Expectation[_Kind]:
    """Fail unless the block raises exactly this *kind* of refusal, for *field* and *line*, with the stored message.

    *varies*: a pattern for the part of the message that another program or the clock writes; it is not compared.
    """
    return _Expectation(kind, field, line, varies)


def check_refusal(
    error: BaseException,
    kind: type[CoordinationError],
    *,
    field: str | None = None,
    line: int | None = None,
    varies: str | None = None,
) -> None:
    """Fail unless *error* is exactly this *kind* of refusal, for this *field* and *line*, with the stored message."""
    __tracebackhide__ = True
    assert isinstance(error, CoordinationError), repr(error)
    compared: tuple[tuple[str, Any, Any], ...] = (
        ("kind", type(error).__name__, kind.__name__),
        ("field", error.field, field),
        ("line", getattr(error, "line", None), line),
    )
    wrong = [f"its {name} is {actual!r}, not {expected!r}" for name, actual, expected in compared if actual != expected]
    assert not wrong, f"{', and '.join(wrong)}: {error.sentence()}"
    check_sentence(_without(error.sentence(), varies))


def check_refused(result: _Ended, *, code: int = 2, varies: str | None = None) -> None:
    """Fail unless a command ended with *code*, and wrote one line to stderr: ``coord:`` and the stored message."""
    __tracebackhide__ = True
    assert result.code == code, result.err
    assert result.err.startswith("coord: "), result.err
    assert result.err.count("\n") == 1, result.err
    check_sentence(_without(result.err, varies))


def _without(sentence: str, varies: str | None) -> str:
    if varies is None:
        return sentence
    shorter, count = re.subn(varies, "<…>", sentence)
    assert count, f"{varies!r} is not in: {sentence}"
    return shorter
