"""Test that every message that docs/troubleshooting.md quotes is one that the program prints."""

from __future__ import annotations

import ast
import re

from tests.support.sources import ROOT, python_files, tree_of

PAGE = ROOT / "docs" / "troubleshooting.md"


def sentences_of_the_program() -> str:
    """Return all texts in the sources, one a line, with ``…`` where a value is put in."""
    matches = set()
    for path in python_files("coordination", "workers"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                matches.add(" ".join("".join(parts).split()))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                matches.add(" ".join(node.value.split()))
    return "\n".join(matches)


def quoted_messages() -> list[str]:
    """Return the code in the first column of tables that begin with ``it says``."""
    rows = []
    for table in re.findall(r"^\| it says \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE):
        rows += [line.split(" | ")[0] for line in table.splitlines()]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


FOREIGN = {"database is locked", "too many clients", "remaining connection slots are reserved", "connection refused"}
"""Words of SQLite and PostgreSQL."""


def test_every_message_that_the_page_quotes_is_in_the_sources() -> None:
    sentences = sentences_of_the_program()

    missing = [message for message in quoted_messages() if message not in FOREIGN and message not in sentences]

    assert len(quoted_messages()) > 40
    assert not missing, "\n".join(["docs/troubleshooting.md quotes what no source says:", *missing])
