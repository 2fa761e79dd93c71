"""What was measured, as a table for people and as JSON: with the machine, the versions, the day and the command."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal
from benchmarks.measure import Series, number, series
from benchmarks.places import HERE

BEGIN, END = "<!-- results -->", "<!-- end of results -->"
_LIBRARIES = ("celery", "kombu", "redis", "sqlalchemy", "psycopg", "dramatiq", "procrastinate", "dbos")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure: what was measured, on what; held against a goal, or beside something by a ratio and a target.

    Without a series nothing could be measured, and ``note`` says why.
    """

    what: str
    where: str
    series: Series | None
    ratio: float | None = None
    target: str | None = None
    note: str = ""
    goal: Goal | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything, unrounded."""
        found = self.series
        goal = self.goal
        return {
            "what": self.what,
            "where": self.where,
            "unit": found.unit if found else None,
            "median": found.median if found else None,
            "rounds": list(found.values) if found else [],
            "ratio": self.ratio,
            "target": self.target,
            "note": self.note,
            "goal": {"must": goal.must, "want": goal.want, "more": goal.more} if goal else None,
            "reached": goal.verdict(found.median) if goal and found else None,
        }


def line_of(stored: Mapping[str, Any]) -> Line:
    """A line as ``to_json`` wrote it; also one from before there were goals."""
    goal = stored.get("goal")
    return Line(
        stored["what"],
        stored["where"],
        series(stored["rounds"], stored["unit"]) if stored["rounds"] else None,
        ratio=stored["ratio"],
        target=stored["target"],
        note=stored["note"],
        goal=Goal(**goal) if goal else None,
    )


def show(line: Line) -> str:
    """One line on the terminal."""
    cells = _cells(line)
    marks = "  ".join(
        f"{name} {cell}" for name, cell in zip(("must", "want", "reached:"), cells[4:], strict=True) if cell
    )
    beside = f"  {cells[3]}" if cells[3] else ""
    return f"{cells[0]:<64} {cells[1]:<14} {cells[2]}{beside}{'  ' + marks if marks else ''}"


def about(*, command: str, workers: int, rounds: int, servers: Mapping[str, str]) -> dict[str, Any]:
    """Where, when and how this was measured."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        "servers": dict(servers),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "rounds": rounds,
        "worker_processes": workers,
    }


def save(
    part: str, lines: Sequence[Line], how: Mapping[str, Any], *, order: Sequence[str] = (), folder: Path = HERE
) -> None:
    """Replace the results of one part in results.json, and the tables in README.md. Trials do not come here.

    *order* names the parts as they are shown; what it does not name comes last, as it came.
    """
    kept = folder / "results.json"
    document = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    document[part] = {"about": dict(how), "results": [line.to_json() for line in lines]}
    names = [*(name for name in order if name in document), *(name for name in document if name not in order)]
    document = {name: document[name] for name in names}
    kept.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    write_page(document, folder / "README.md")


def write_page(document: Mapping[str, Any], page: Path) -> None:
    """The tables in the page, from what results.json holds."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(tables(document)) + "\n" + END + after, encoding="utf-8")


def tables(document: Mapping[str, Any]) -> list[str]:
    """First what has a goal, from all parts; then each part with when and how it was measured."""
    parts = {part: [line_of(stored) for stored in found["results"]] for part, found in document.items()}
    held = [line for lines in parts.values() for line in lines if line.goal]
    text = ["### Beside the goals", "", *_table(held), ""] if held else []
    before: Mapping[str, Any] = {}
    for part, lines in parts.items():
        how = document[part]["about"]
        text += [f"### {part}", *_how(how, before), "", *_table(lines), ""]
        before = how
    return text[:-1]


def machine() -> str:
    """Cores, processor, memory, kernel; not its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1_000_000_000
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, {system}"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _how(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """When, how and on what; of the same run as the one *before* only what differs."""
    own = {"date", "load", "servers"}  # a server is named from the part on that first needed it
    if {name: found[name] for name in found if name not in own} == {k: v for k, v in before.items() if k not in own}:
        return [f"{found['date']}, in the same run; load {found['load']} at the end."]
    processes = found["worker_processes"]
    versions = {**found.get("servers", {}), **found["libraries"]}
    return [
        f"{found['date']}, `{found['command']}`, {found['rounds']} rounds, worker processes of ours: {processes};",
        f"on {found['machine']}, whose load was {found['load']} at the end;",
        f"Python {found['python']}; {', '.join(f'{name} {which}' for name, which in versions.items())}.",
    ]


def _table(lines: Sequence[Line]) -> list[str]:
    heads = ["what", "where", "median (lowest to highest)", "beside", "must", "want", "reached"]
    rows = [_cells(line) for line in lines]
    used = [index for index, head in enumerate(heads) if head != "beside" or any(row[index] for row in rows)]
    table = [[heads[index] for index in used], *([row[index] for index in used] for row in rows)]
    return ["| " + " | ".join(row) + " |" for row in [table[0], ["---"] * len(used), *table[1:]]]


def _cells(line: Line) -> list[str]:
    """What, where, median, beside, must, want, reached."""
    shown = line.series.shown if line.series else f"not measured: {line.note}"
    beside = f"{number(line.ratio)}x" if line.ratio is not None else ""
    if line.goal is None or line.series is None:
        return [line.what, line.where, shown, beside, line.target or "", "", ""]
    unit, goal = line.series.unit, line.goal
    marks = [goal.shown(mark, unit) for mark in (goal.must, goal.want)]
    return [line.what, line.where, shown, beside, *marks, goal.verdict(line.series.median)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
