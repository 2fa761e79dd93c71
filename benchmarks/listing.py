"""``coord tasks list`` of a run of 50,000 tasks: CPU seconds of the whole process, beside a bare Python that reads the
same columns of the same database with ``sqlite3`` and writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import goals
from benchmarks.bench import Bench
from benchmarks.measure import in_turns, ratios, run, series
from benchmarks.places import ROOT
from benchmarks.report import Line

_TASKS = 50_000
_COORD = [sys.executable, "-m", "coordination.cli"]
_BARE = """
import json, sqlite3, sys
asked = "SELECT id, key, title, state, reasons, error, priority, attempt, agent_id FROM tasks ORDER BY id"
rows = sqlite3.connect(sys.argv[1]).execute(asked)
write = json.dumps if sys.argv[2:] else lambda row: "  ".join(map(str, row))
sys.stdout.writelines(write(row) + "\\n" for row in rows)
"""


def measure(bench: Bench) -> list[Line]:
    """User and system time of processes, their start included."""
    number = max(1_000, int(_TASKS * min(1.0, bench.scale)))
    home = bench.folder / "listing"
    env = {"COORD_HOME": str(home), "COORD_DATABASE_URL": "", "COORD_REDIS_URL": "", "PYTHONPATH": str(ROOT)}
    tasks = [{"key": f"task-{each}", "title": f"the task {each}", "run": {"shell": "true"}} for each in range(number)]
    plan = bench.folder / "many.json"
    plan.write_text(json.dumps({"version": 1, "name": "many", "tasks": tasks}), encoding="utf-8")
    run([*_COORD, "submit", str(plan)], env, cwd=str(bench.folder))
    bare = [sys.executable, "-c", _BARE, str(home / "coordination.db")]
    sides = {
        "table": [*_COORD, "tasks", "list", "many"],
        "json": [*_COORD, "tasks", "list", "many", "--json"],
        "bare table": bare,
        "bare json": [*bare, "json"],
    }
    taken = in_turns(
        bench.rounds,
        {name: (lambda argv=argv: _cpu(argv, env, bench.folder)) for name, argv in sides.items()},  # type: ignore[misc]
    )
    lines = []
    for form, option in (("table", ""), ("json", " --json")):
        what = f"coord tasks list{option}, {number:,} tasks, CPU"
        lines.append(Line(what, "sqlite", series(taken[form], "s"), goal=goals.LISTING))
        lines.append(Line(f"{what}, beside a bare Python", "sqlite", ratios(taken[form], taken[f"bare {form}"])))
    return lines


def _cpu(argv: list[str], env: dict[str, str], cwd: Path) -> float:
    """CPU seconds of a process from its start to its end."""
    process = subprocess.Popen(argv, env={**os.environ, **env}, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime
