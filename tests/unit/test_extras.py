"""Test the command that installs an optional part, from where the program itself was installed."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys

import pytest

from coordination.base import extras

PYTHON = shlex.quote(sys.executable)


class Installed:
    """The record of an installed package."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def read_text(self, name: str) -> str | None:
        return self._text if name == "direct_url.json" else None


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"url": "file:///srv/a%20b", "dir_info": {}}, "'/srv/a b[chat]'"),
        ({"url": "file:///srv/co", "dir_info": {"editable": True}}, "--editable '/srv/co[chat]'"),
        ({"url": "file:///tmp/co-1-py3-none-any.whl", "archive_info": {}}, "'/tmp/co-1-py3-none-any.whl[chat]'"),
        ({"url": "https://example.org/co.whl", "archive_info": {}}, "'coordination[chat]'"),
        (None, "'coordination[chat]'"),
    ],
)
def test_it_comes_from_where_the_program_came_from(
    monkeypatch: pytest.MonkeyPatch, record: dict[str, object] | None, what: str
) -> None:
    monkeypatch.setattr(extras, "distribution", lambda _: Installed(record and json.dumps(record)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    assert extras.install_command("chat") == f"{PYTHON} -m pip install {what}"


def test_an_environment_without_pip_is_one_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "distribution", lambda _: Installed("not JSON"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert extras.install_command("s3") == f"uv pip install --python {PYTHON} 'coordination[s3]'"
