"""Test that our processes read names as UTF-8 in every locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from coordination.base.host import ensure_utf8
ensure_utf8()
print(json.dumps([sys.argv[1], os.environ["NAME"], sys.getfilesystemencoding(), sys.stdout.encoding.lower()]))
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("locale", "printed"),
    [
        (ASCII, {"ascii", "ansi_x3.4-1968", "us-ascii"}),
        ({**ASCII, "PYTHONIOENCODING": "latin-1"}, {"latin-1", "iso8859-1"}),
        ({"LC_ALL": "C"}, {"utf-8"}),
        ({"LC_ALL": "C.UTF-8"}, {"utf-8"}),
    ],
)
def test_names_are_utf_8_and_what_is_printed_is_as_the_terminal_has_it(
    locale: dict[str, str], printed: set[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "wörk 👩"],
        env={**os.environ, **locale, "NAME": "Jürgen"},
        capture_output=True,
        check=True,
    )

    argument, variable, names, terminal = json.loads(done.stdout)
    assert (argument, variable, names) == ("wörk 👩", "Jürgen", "utf-8")
    assert terminal in printed
