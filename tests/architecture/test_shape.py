"""Test the shape of the source: small files with a docstring, no unused code, no constructs that the project avoids."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import ROOT, name_of, python_files, repository_files, tree_of

SHIPPED = ("coordination", "workers")
ATTICS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "models", "stuff", "lib"}

# Folders that only exist on the machine of the line's author.
MACHINE_PATH = re.compile(r"(?<![\w./~}-])/(?:work|root)/[\w.]|/\.pyenv/")


def shipped_files() -> list[Path]:
    return [*python_files(*SHIPPED), *(path for path in [ROOT / "beat_schedule.py"] if path.exists())]


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def test_there_is_something_to_check() -> None:
    assert len(python_files(*SHIPPED)) > 20
    assert ROOT / "pyproject.toml" in repository_files()


def test_no_file_is_longer_than_600_lines() -> None:
    # A file of more than 400 lines of source is reviewed: it is divided by concept, not by size.
    files = python_files(*SHIPPED, "tests", "benchmarks", "examples")

    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}

    too_long = {name: length for name, length in lengths.items() if length > 600}
    assert not too_long, f"over 600 lines; make each a package of the same name: {too_long}"


def test_there_are_no_attics() -> None:
    named = {
        name_of(path)
        for path in python_files(*SHIPPED, "tests", "benchmarks", "examples")
        if ATTICS & {path.stem, *path.relative_to(ROOT).parent.parts}
    }

    assert not named, f"name these for what they hold: {sorted(named)}"


def test_every_module_opens_with_its_promise() -> None:
    silent = [
        name_of(path)
        for path in python_files(*SHIPPED)
        if tree_of(path).body and not (ast.get_docstring(tree_of(path)) or "").strip()
    ]

    assert not silent, f"no docstring: {silent}"


def test_a_promise_is_one_sentence_on_the_first_line() -> None:
    ragged = [
        name_of(path)
        for path in python_files(*SHIPPED)
        if (promise := ast.get_docstring(tree_of(path)))
        and promise.splitlines()[0].rstrip()[-1:] not in {".", "!", "?", ":"}
    ]

    assert not ragged, f"the first line of the docstring does not end: {ragged}"


def test_only_the_command_line_prints() -> None:
    printing = {
        f"{name_of(path)}:{call.lineno}"
        for path in shipped_files()
        if "coordination/cli/" not in name_of(path)
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    }

    assert not printing


def test_every_moment_knows_its_zone() -> None:
    naive = {
        f"{name_of(path)}:{call.lineno}"
        for path in shipped_files()
        for call in calls(path)
        if isinstance(call.func, ast.Attribute)
        and (
            call.func.attr == "utcnow"
            or (
                call.func.attr == "now"
                and ast.unparse(call.func.value).endswith("datetime")
                and not call.args + call.keywords
            )
        )
    }

    assert not naive


def test_only_the_settings_read_the_environment() -> None:
    # A job's environment is set by the runner, and the workers' entry point sets where settings are read.
    reading = {
        f"{name_of(path)}:{node.lineno}"
        for path in python_files(
            "coordination/domain", "coordination/store", "coordination/services", "coordination/flows"
        )
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
    }

    assert not reading


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    places = []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path == Path(__file__) or path.is_relative_to(ROOT / "tests" / "data"):
            continue
        places += [f"{name_of(path)}: {match.group()}" for match in MACHINE_PATH.finditer(text)]

    assert not places


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("cd /work/shop", True),
        ("see /root/.pyenv", True),
        ("/somewhere/.pyenv/versions", True),
        ("/home/ada/shop", False),
        ("a /workspace/x", False),
        ("agents/work/queue.py", False),
        ("https://example.org/work/shop", False),
    ],
)
def test_the_pattern_for_such_folders_can_tell(line: str, is_one: bool) -> None:  # noqa: FBT001 - a parameter
    assert bool(MACHINE_PATH.search(line)) is is_one
