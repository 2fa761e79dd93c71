"""Storing a plan of 10,000 tasks and 20,000 dependencies: through ``coord submit`` and through the Python API."""

from __future__ import annotations

import json
import random
import sys

from benchmarks import goals
from benchmarks.bench import STORES, Bench
from benchmarks.measure import ratios, run, series
from benchmarks.places import ROOT
from benchmarks.report import Line

_API = """
import json, sys, time
from coordination import Plan, Task, connect
from coordination.domain.plans.plans import ProjectRef
with open(sys.argv[1]) as file:
    edges = json.load(file)
co = connect()
plan = Plan([Task(key, {"shell": "true"}, needs=needs) for key, needs in edges], project=ProjectRef(name="bench"))
began = time.perf_counter()
co.submit(plan)
print(time.perf_counter() - began)
"""

_WITHOUT_COPY = """
from coordination.store import driver
driver._FEW = driver._BLOCK = 1 << 60  # nothing is so much that it would go another way than by INSERT
"""


def measure(bench: Bench) -> list[Line]:
    """Seconds, and the most memory that the submitting process held."""
    tasks = bench.size(10_000)
    edges = graph(tasks, 2 * tasks)
    plan, listed = bench.folder / "plan.yaml", bench.folder / "plan.json"
    plan.write_text(_yaml(edges), encoding="utf-8")
    listed.write_text(json.dumps(edges), encoding="utf-8")
    what = f"plan of {tasks:,} tasks, {2 * tasks:,} dependencies"
    found: dict[str, dict[str, list[float]]] = {
        kind: {"cli": [], "api": [], "plain": [], "memory": []} for kind in STORES
    }
    environments = {kind: bench.environment(kind, database=3) | {"PYTHONPATH": str(ROOT)} for kind in STORES}
    for _ in range(bench.rounds):
        for kind in STORES:
            submitted = run(
                [sys.executable, "-m", "coordination.cli", "submit", str(plan), "-C", str(bench.folder)],
                environments[kind],
            )
            found[kind]["cli"].append(submitted.seconds)
            found[kind]["memory"].append(submitted.peak_mb)
            called = run([sys.executable, "-c", _API, str(listed)], environments[kind])
            found[kind]["api"].append(float(called.output.strip().splitlines()[-1]))
            plainly = run([sys.executable, "-c", _WITHOUT_COPY + _API, str(listed)], environments[kind])
            found[kind]["plain"].append(float(plainly.output.strip().splitlines()[-1]))
    lines = []
    for kind in STORES:
        goal = goals.SUBMISSION if kind == "postgresql" else None
        lines += [
            Line(f"{what}: the whole of coord submit", kind, series(found[kind]["cli"], "s"), goal=goal),
            Line(f"{what}: submit() of the Python API", kind, series(found[kind]["api"], "s"), goal=goal),
            Line(
                f"{what}: the same by executemany of SQLAlchemy's INSERT",
                kind,
                series(found[kind]["plain"], "s"),
                ratio=ratios(found[kind]["plain"], found[kind]["api"]).median,
            ),
            Line(f"{what}: peak memory of coord submit", kind, series(found[kind]["memory"], "MB"), target="< 200 MB"),
        ]
    return lines


def graph(tasks: int, edges: int) -> list[tuple[str, list[str]]]:
    """A random graph that is the same each time: every task with those that it needs, all of them before it."""
    chance = random.Random(7)  # noqa: S311 - a graph, no secret
    needs: list[set[int]] = [set() for _ in range(tasks)]
    left = edges
    while left:
        child = chance.randrange(1, tasks)
        parent = chance.randrange(child)
        if parent not in needs[child] and len(needs[child]) < 6:
            needs[child].add(parent)
            left -= 1
    return [(f"task-{number}", [f"task-{parent}" for parent in sorted(of)]) for number, of in enumerate(needs)]


def _yaml(edges: list[tuple[str, list[str]]]) -> str:
    lines = ["version: 1", "project: {name: bench}", "tasks:"]
    for key, needs in edges:
        lines.append(f"  - key: {key}")
        if needs:
            lines.append(f"    needs: [{', '.join(needs)}]")
        lines.append('    run: {shell: "true"}')
    return "\n".join(lines) + "\n"
