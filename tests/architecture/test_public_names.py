"""Test that the public names are in one list: the package exports it, and the reference documents it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

import coordination
from coordination.api import public
from tests.support.sources import ROOT, tree_of


def listed_names() -> list[str]:
    """Return the names of the list, read from its source."""
    tree = tree_of(ROOT / "coordination" / "api" / "public.py")
    return [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]


def test_the_package_exports_the_list_and_nothing_else() -> None:
    assert sorted(listed_names()) == coordination.__all__
    assert {name: getattr(coordination, name) for name in listed_names()} == {
        name: value for name, value in vars(public).items() if not name.startswith("_")
    }


def test_the_reference_documents_the_list() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("# Inside a job\n")[0]

    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == sorted(listed_names())


def test_a_star_imports_the_list() -> None:
    names: dict[str, object] = {}

    exec("from coordination import *", names)  # noqa: S102 - what a user may write

    assert names.keys() - {"__builtins__"} == set(listed_names())


@pytest.mark.parametrize("name", ["Nothing", "nothing"])
def test_another_name_is_refused_as_python_does_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'coordination' has no attribute '{name}'"):
        getattr(coordination, name)


def test_importing_a_module_does_not_load_the_api() -> None:
    code = (
        "import sys; from coordination.base import clock; from coordination import job;"
        "print('coordination.api.public' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
