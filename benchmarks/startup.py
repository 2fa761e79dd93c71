"""How long a person waits: ``coord --help``, the embedded stack, the first task of a fresh ``coord run``."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import goals
from benchmarks.bench import Bench
from benchmarks.measure import run, series
from benchmarks.places import ROOT
from benchmarks.report import Line

_COORD = [sys.executable, "-m", "coordination.cli"]
_ONE = 'version: 1\nproject: {name: bench}\ntasks:\n  - key: one\n    run: {shell: "true"}\n'


def measure(bench: Bench) -> list[Line]:
    """Seconds from the start of the command."""
    plan = bench.folder / "one.yaml"
    plan.write_text(_ONE, encoding="utf-8")
    helps, ups, firsts, wholes = [], [], [], []
    for number in range(bench.rounds):
        helps.append(run([*_COORD, "--help"], _fresh(bench.folder / f"help-{number}")).seconds)
        home = _fresh(bench.folder / f"up-{number}")
        ups.append(run([*_COORD, "up", "--detach"], home).seconds)
        run([*_COORD, "down"], home)
        clock, began = time.perf_counter(), datetime.now(UTC)
        ran = run(
            [*_COORD, "run", str(plan), "-C", str(bench.folder), "--json"], _fresh(bench.folder / f"run-{number}")
        )
        wholes.append(time.perf_counter() - clock)
        ended = datetime.fromisoformat(json.loads(ran.output[ran.output.index("{") :])["finished_at"])
        firsts.append((ended - began).total_seconds())
    one = "coord run of one task on a new home"
    return [
        Line("coord --help", "command line", series(helps, "s"), goal=goals.HELP),
        Line("coord up --detach, on a new home", "embedded", series(ups, "s"), goal=goals.EMBEDDED_UP),
        Line(
            f"{one}: the task is done",
            "embedded",
            series(firsts, "s"),
            goal=goals.FIRST_TASK,
        ),
        Line(f"{one}: the prompt is back", "embedded", series(wholes, "s")),
    ]


def _fresh(home: Path) -> dict[str, str]:
    return {"COORD_HOME": str(home), "COORD_DATABASE_URL": "", "COORD_REDIS_URL": "", "PYTHONPATH": str(ROOT)}
