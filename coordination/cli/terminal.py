"""What the command line prints: text, and nothing that a terminal obeys.

Titles, errors, questions and outputs come from jobs. An escape sequence in one could rename a window, hide a line or
put a command where the next paste finds it; a mark that turns the direction of text makes a name look like another.
So all that is written to stdout and stderr is cleaned where it is written, and no command has to think of it. Styles
of our own come from ``console``, which cleans the texts and writes past that. ``raw`` is for what a person asked for
as it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from coordination.domain.printable import KEPT, clean

if TYPE_CHECKING:
    from rich.console import Console


def json_text(value: Any, *, indent: int | None = None) -> str:
    """*value* as JSON in which whatever ``clean`` would take away is escaped, so that nothing of it is lost."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(one if one.isprintable() or one in KEPT else json.dumps(one)[1:-1] for one in text)


class _Cleaned:
    """A text stream that cleans what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        cleaned = clean(text)
        try:
            self.raw.write(cleaned)
        except UnicodeEncodeError:  # a terminal without Unicode shows what it can
            encoding = self.raw.encoding or "ascii"
            self.raw.write(cleaned.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def cleaned() -> Iterator[None]:
    """Clean what is written to stdout and stderr meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Cleaned(raw(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """The stream behind a cleaned one."""
    return stream.raw if isinstance(stream, _Cleaned) else stream


def console(**options: Any) -> Console:
    """A console of rich on stdout whose styles reach the terminal, and whose texts are cleaned."""
    from rich.console import Console
    from rich.segment import Segment

    class Cleaned(Console):
        def render(self, *args: Any, **kwargs: Any) -> Any:
            for segment in super().render(*args, **kwargs):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    return Cleaned(file=raw(sys.stdout), **options)
