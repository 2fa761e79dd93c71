"""The last lines of what an attempt printed, of each stream apart: what a person reads first when a job has failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coordination.base.printable import clean
from coordination.domain.jobs.registry import kind_in

MOST_LINES = 15
MOST_CHARACTERS = 4_000
"""Of each stream, however few lines these are."""

_GATES = "[gate "


@dataclass(frozen=True, slots=True)
class LastLines:
    """The end of one stream. *stream*: what it is called. *left_out*: whether something was printed before it."""

    stream: str
    lines: tuple[str, ...]
    left_out: bool

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        return {"stream": self.stream, "lines": list(self.lines), "left_out": self.left_out}


def last_lines(
    work: Mapping[str, Any], output: object, log: str | None, *, most: int = MOST_LINES
) -> tuple[LastLines, ...]:
    """The end of what the job *work* printed, by what is kept of its attempt; streams that say nothing are left out.

    A shell job's *output* is its stdout, an agent's its answer; what a function returned is not printed. The *log* is
    stderr, with what gates printed, and all that a function printed.
    """
    streams: list[tuple[str, object]] = []
    name = kind_in(work).output_name
    if name is None:
        streams.append(("output", log))
    else:
        gates = isinstance(log, str) and (log.startswith(_GATES) or f"\n{_GATES}" in log)
        streams += [(name, output)]
        streams += [("stderr and gates" if gates else "stderr", log)]
    found = [_end_of(name, text, most) for name, text in streams if isinstance(text, str) and text.strip()]
    return tuple(found)


def _end_of(stream: str, text: str, most: int) -> LastLines:
    whole = clean(text).rstrip()
    kept = whole[-MOST_CHARACTERS:]
    lines = kept.split("\n")
    return LastLines(stream, tuple(lines[-most:]), len(kept) < len(whole) or len(lines) > most)


def as_text(found: Iterable[LastLines]) -> str:
    """The streams one after the other, each under its name."""
    return "\n".join(
        f"{'The end of ' if one.left_out else ''}{one.stream}:\n" + "\n".join(f"  {line}" for line in one.lines)
        for one in found
    )
