"""Test that tests of refusals assert kind, field and line; the messages are only in tests/data/refusals.txt."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.base.errors import CoordinationError
from tests.support.golden_sentences import FILE, keys_without_test, read_blocks, write_blocks
from tests.support.sources import ROOT, name_of, python_files, tree_of


def kinds(root: type[CoordinationError] = CoordinationError) -> Iterator[str]:
    """Return the names of all kinds of refusals."""
    yield root.__name__
    for kind in root.__subclasses__():
        yield from kinds(kind)


def sentences_in(tree: ast.AST, refusals: set[str]) -> Iterator[int]:
    """Return the lines where pytest.raises matches the message of one of these *refusals*."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("raises"):
            matches = any(keyword.arg == "match" for keyword in node.keywords)
            names = {name.id for argument in node.args for name in ast.walk(argument) if isinstance(name, ast.Name)}
            if matches and names & refusals:
                yield node.lineno


def test_no_test_matches_the_sentence_of_a_refusal() -> None:
    refusals = set(kinds())

    matching = [
        f"{name_of(path)}:{line}" for path in python_files("tests") for line in sentences_in(tree_of(path), refusals)
    ]

    assert not matching, f"use refuses of tests/support/refusals.py: {matching}"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("with pytest.raises(Refused, match='no'): ...", [1]),
        ("with pytest.raises((ValueError, PlanError), match='no'): ...", [1]),
        ("with pytest.raises(Refused): ...", []),
        ("with pytest.raises(ValueError, match='no'): ...", []),
    ],
)
def test_the_check_can_tell(source: str, lines: list[int]) -> None:
    assert list(sentences_in(ast.parse(source), set(kinds()))) == lines


def test_every_stored_sentence_belongs_to_a_test() -> None:
    stored = read_blocks(FILE.read_text(encoding="utf-8"))

    assert len(stored) > 100
    assert keys_without_test(list(stored)) == [], "run: pytest --update-refusals with any test"


def test_the_stored_sentences_are_as_the_plugin_writes_them() -> None:
    text = FILE.read_text(encoding="utf-8")

    assert write_blocks(read_blocks(text)) == text


def test_no_stored_sentence_names_a_folder_of_somebodys_machine() -> None:
    text = FILE.read_text(encoding="utf-8")

    assert str(ROOT) not in text
    assert str(Path.home()) not in text
