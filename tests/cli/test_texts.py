"""Test that texts from files and stdin are read as UTF-8 in every locale, or refused in one sentence."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from coordination.base.errors import Refused
from coordination.cli.texts import read_text
from tests.support.refusals import refuses

NOT_UTF_8 = [b"one\ncaf\xe9\n", "café".encode("utf-16")]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("data", [b"caf\xc3\xa9\nb", b"\xef\xbb\xbfcaf\xc3\xa9\nb", b"caf\xc3\xa9\r\nb"])
def test_stdin_is_utf_8_whatever_the_locale_says(monkeypatch: pytest.MonkeyPatch, encoding: str, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding=encoding, errors="surrogateescape"))

    assert read_text(Path("-")) == "café\nb"


@pytest.mark.parametrize("data", [b"caf\xc3\xa9\nb", b"\xef\xbb\xbfcaf\xc3\xa9\nb", b"caf\xc3\xa9\r\nb"])
def test_a_file_loses_its_mark_and_its_line_ends(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "answer"
    file.write_bytes(data)

    assert read_text(file) == "café\nb"


@pytest.mark.parametrize("data", NOT_UTF_8)
def test_another_encoding_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "answer"
    file.write_bytes(data)

    with refuses(Refused):
        read_text(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with refuses(Refused):
        read_text(tmp_path / "nothing")
