"""Cleans everything that the command line prints: no control sequences reach the terminal.

Titles, errors, questions and outputs come from jobs. An escape sequence in one could rename a window, hide a line or
put a command where the next paste finds it; a mark that turns the direction of text makes a name look like another.
So everything is cleaned where it is written to stdout and stderr. Styles come from ``console``, which cleans texts and
then writes to the stream itself. ``raw`` is for output that a person wants unchanged.

In the same place commands are rewritten for the terminal (``hints``), except in ``Exact`` texts.

A terminal or a pipe with another encoding than UTF-8 gets our marks in ASCII and other letters as escapes; JSON gets
the escapes of JSON.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard, cast

from coordination.base.printable import KEPT, clean
from coordination.cli.hints import Exact, rewrite

if TYPE_CHECKING:
    from rich.console import Console


_PLAIN = "coordination-plain"
_IN_ASCII = {"✓": "+", "✗": "x", "·": "-", "…": "...", "→": "->", "–": "-", "—": "-", "‘": "'", "’": "'"}  # noqa: RUF001


def _replace_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle the error of a codec: replace letters that its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    shown = "".join(_IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in missing)
    return shown, error.end


codecs.register_error(_PLAIN, _replace_letters)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return *value* as JSON in which everything that ``clean`` would remove is escaped."""
    return Exact(json_writer(indent=indent)(value))


def json_writer(*, indent: int | None = None) -> Callable[[Any], str]:
    """Return a function like ``json_text`` for very many values, which examines the stream once."""
    encode = json.JSONEncoder(ensure_ascii=not _has_every_letter(sys.stdout), indent=indent).encode

    def write(value: Any) -> str:
        text = encode(value)
        if text.isprintable() or all(line.isprintable() for line in text.split("\n")):
            return text
        return "".join(
            letter if letter.isprintable() or letter in KEPT else json.dumps(letter)[1:-1] for letter in text
        )

    return write


class _Cleaned:
    """A text stream that cleans what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        self.raw.write(clean(rewrite(text)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def clean_streams() -> Iterator[None]:
    """Clean what is written to stdout and stderr inside the block."""
    before = sys.stdout, sys.stderr
    behind = [raw(stream) for stream in before]
    strict = [(stream, stream.errors) for stream in behind if _may_fail(stream)]
    for stream, _ in strict:
        stream.reconfigure(errors=_PLAIN)
    sys.stdout, sys.stderr = (cast("TextIO", _Cleaned(stream)) for stream in behind)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, errors in strict:
            if not stream.closed:
                with contextlib.suppress(BrokenPipeError):  # it flushes, and the pipe may be closed
                    stream.reconfigure(errors=errors)


def discard_output() -> None:
    """Discard the buffers of stdout and stderr after their reader has closed the pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, stream.fileno())
                os.close(devnull)


def _may_fail(stream: TextIO) -> TypeGuard[io.TextIOWrapper]:
    """Return whether a letter that the stream's encoding lacks would fail, or be printed as a bare escape."""
    return isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape", "backslashreplace")


def _has_every_letter(stream: TextIO) -> bool:
    """Return whether the stream can encode every letter; one without an encoding keeps texts."""
    return not (encoding := stream.encoding) or codecs.lookup(encoding).name.startswith("utf")


def raw(stream: TextIO) -> TextIO:
    """Return the stream behind a cleaned one."""
    return stream.raw if isinstance(stream, _Cleaned) else stream


def console(**options: Any) -> Console:
    """Return a rich console on stdout whose styles reach the terminal and whose texts are cleaned.

    Commands in printed text are rewritten for the terminal; with ``markup=False``, for foreign texts, they are not.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.segment import Segment

    def for_the_terminal(value: Any) -> Any:
        return rewrite(value, escape) if isinstance(value, str) else value

    class Cleaned(Console):
        def print(self, *objects: Any, markup: bool | None = None, **options: Any) -> None:
            texts = objects if markup is False else map(for_the_terminal, objects)
            super().print(*texts, markup=markup, **options)

        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - called while it is handled; rich would end the program with a code of its own

        def render(self, *args: Any, **kwargs: Any) -> Any:
            for segment in super().render(*args, **kwargs):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    return Cleaned(file=raw(sys.stdout), **options)
