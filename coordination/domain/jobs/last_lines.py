"""The last lines of each output stream of an attempt, which people read first when a job has failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coordination.base.printable import clean
from coordination.domain.jobs.registry import job_class

MOST_LINES = 15
MOST_CHARACTERS = 4_000
"""The maximum per stream."""

_GATES = "[gate "


@dataclass(frozen=True, slots=True)
class LastLines:
    """The end of one stream. *stream*: its name. *left_out*: whether earlier output is left out."""

    stream: str
    lines: tuple[str, ...]
    left_out: bool

    def to_json(self) -> dict[str, Any]:
        """Return the form that --json prints."""
        return {"stream": self.stream, "lines": list(self.lines), "left_out": self.left_out}


def last_lines(
    work: Mapping[str, Any], output: object, log: str | None, *, most: int = MOST_LINES
) -> tuple[LastLines, ...]:
    """Return the last lines of the non-empty streams of an attempt of the job *work*.

    *output*: stdout of a shell command, or the answer of an agent; a function's return value is not shown. *log*:
    stderr with the output of gates, and everything that a function printed.
    """
    streams: list[tuple[str, object]] = []
    name = job_class(work).output_name
    if name is None:
        streams.append(("output", log))
    else:
        has_gates = isinstance(log, str) and (log.startswith(_GATES) or f"\n{_GATES}" in log)
        streams += [(name, output), ("stderr and gates" if has_gates else "stderr", log)]
    return tuple(_end_of(name, text, most) for name, text in streams if isinstance(text, str) and text.strip())


def _end_of(stream: str, text: str, most: int) -> LastLines:
    whole = clean(text).rstrip()
    end = whole[-MOST_CHARACTERS:]
    lines = end.split("\n")
    return LastLines(stream, tuple(lines[-most:]), len(end) < len(whole) or len(lines) > most)


def format_last_lines(streams: Iterable[LastLines]) -> str:
    """Return the streams one after the other, each below its name."""
    return "\n".join(
        f"{'The end of ' if end.left_out else ''}{end.stream}:\n" + "\n".join(f"  {line}" for line in end.lines)
        for end in streams
    )
