"""Test that every noun has one JSON form: commands and servers print views, build no documents, and a change shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import json_views
from tests.support.sources import name_of, python_files, tree_of

DOORS = ("coordination/cli", "coordination/mcp_server")
FORMATS_OF_OTHERS = {"export", "plan_schema"}  # documents that another command, or an editor, reads back
# The JSON text is produced here; arguments and reports of jobs are JSON of their own.
ENCODERS = ("cli/terminal.py", "mcp_server/relay.py", "mcp_server/reporting.py", "mcp_server/tools.py")


def calls(path: Path, *names: str) -> Iterator[ast.Call]:
    return (
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names
    )


def views_of(tree: ast.Module) -> set[str]:
    """Return the names by which a module calls modules of views."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "coordination.views"
        for alias in node.names
    }


def is_view(argument: ast.expr, views: set[str]) -> bool:
    if not isinstance(argument, ast.Call):
        return False
    first, _, name = ast.unparse(argument.func).rpartition(".")
    return first in views or name in FORMATS_OF_OTHERS | {"listing"} or ast.unparse(argument.func) == "summary.details"


def test_commands_print_views_as_json() -> None:
    own = [
        f"{name_of(path)}:{call.lineno}"
        for path in python_files("coordination/cli")
        for call in calls(path, "print_json")
        if not is_view(call.args[0], views_of(tree_of(path)))
    ]

    assert not own, f"give these a function in coordination/views: {own}"


def test_only_the_doors_of_texts_and_of_the_protocol_make_json_texts() -> None:
    encoding = [
        f"{name_of(path)}:{call.lineno}"
        for path in python_files(*DOORS)
        if not name_of(path).endswith((*ENCODERS, "mcp_server/reading.py"))
        for call in calls(path, "dumps", "JSONEncoder")
    ]

    assert not encoding


def test_doors_open_no_transactions_that_write() -> None:
    writing = [f"{name_of(path)}:{call.lineno}" for path in python_files(*DOORS) for call in calls(path, "transact")]

    assert not writing, f"give these a method in coordination/api: {writing}"


def test_views_are_given_no_documents() -> None:
    built = [
        f"{name_of(path)}:{argument.lineno}"
        for path in python_files(*DOORS)
        for call in calls(path, "print_json", "_json")
        for view in call.args
        for argument in ast.walk(view)
        if isinstance(argument, ast.Dict)
    ]

    assert not built


def test_the_form_of_every_noun_is_the_stored_one() -> None:
    assert json_views.current_text() == json_views.stored_text(), "run: python -m tests.support.json_views"


@pytest.mark.parametrize("text", ["print_json({'a': 1})", "print_json(found)", "print_json(run(record))"])
def test_a_document_that_is_no_view_is_noticed(text: str) -> None:
    call = ast.parse(text, mode="eval").body

    assert isinstance(call, ast.Call)
    assert not is_view(call.args[0], {"views"})
