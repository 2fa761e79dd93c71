"""Reads texts from a file or stdin: UTF-8 whatever the locale is, with ``\\n`` at the end of lines."""

from __future__ import annotations

import sys
from pathlib import Path

from coordination.base.errors import Refused

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(path: Path) -> str:
    """Return the text of a file, or of stdin for ``-``, without a byte order mark and with ``\\n`` line ends.

    Raises Refused when it cannot be read or is not UTF-8.
    """
    name = "stdin" if str(path) == "-" else str(path)
    try:
        data = _stdin() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise Refused(f"{name} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if data.startswith(_UTF_16):
        raise Refused(f"{name} is not UTF-8 but UTF-16", hint="Save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} in line {line:,} cannot be read",
            hint="Save it as UTF-8",
        ) from None
    return text.replace("\r\n", "\n")


def _stdin() -> bytes:
    """Return the bytes of stdin, also where a caller has replaced it by a stream of text."""
    buffer = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read().encode("utf-8", "surrogateescape") if buffer is None else buffer.read()
