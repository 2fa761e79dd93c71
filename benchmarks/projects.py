"""Many projects: the same no-op tasks in one project and in many, and a small plan in a project that is new."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from benchmarks import goals
from benchmarks.bench import STORES, Bench, OurStack
from benchmarks.flow import RAW, no_ops
from benchmarks.measure import in_turns, ratios, series
from benchmarks.report import Line

SMALL = 100
"""Tasks of a small plan."""

_PROJECTS = 200
_TASKS = 10_000
_ONE, _PLANS, _MANY = "one project", "as many plans in one project", "many projects"

_new = itertools.count()


def measure(bench: Bench) -> list[Line]:
    """The cost of a task where many projects have a few each; the time of a small plan, beside Celery's."""
    return [*_many(bench), *_small(bench)]


def _many(bench: Bench) -> list[Line]:
    projects = bench.size(_PROJECTS)
    each = max(1, bench.size(_TASKS) // projects)
    count = projects * each
    sides: dict[str, Callable[[], float]] = {}
    for kind, stack in bench.ours.items():
        sides[f"{kind}, {_ONE}"] = partial(_in_one, stack, 1, count)
        sides[f"{kind}, {_PLANS}"] = partial(_in_one, stack, projects, each)
        sides[f"{kind}, {_MANY}"] = partial(_in_many, stack, projects, each)
    taken = in_turns(bench.rounds, sides)
    found = {who: [seconds / count * 1000 for seconds in values] for who, values in taken.items()}
    shown = {_ONE: "in one project", _PLANS: f"in {projects} plans of one project", _MANY: f"in {projects} projects"}
    what = f"{count:,} no-op tasks"
    lines = [
        Line(f"{what} {how}", kind, series(found[f"{kind}, {side}"], "ms a task"))
        for kind in STORES
        for side, how in shown.items()
    ]
    for side, beside in ((_PLANS, "the same plans in one project"), (_ONE, "one plan in one project")):
        lines += [
            Line(
                f"{what} in {projects} projects, beside {beside}",
                kind,
                ratios(found[f"{kind}, {_MANY}"], found[f"{kind}, {side}"]),
                goal=goals.PROJECTS,
            )
            for kind in STORES
        ]
    return lines


def _small(bench: Bench) -> list[Line]:
    peers = {name: (lambda peer=peer: peer.no_ops(SMALL)) for name, peer in bench.peers(*RAW).items()}
    ours = {kind: partial(_in_many, stack, 1, SMALL) for kind, stack in bench.ours.items()}
    taken = in_turns(5 * bench.rounds, {**peers, **ours})  # each takes a moment, and varies
    what = f"{SMALL} no-op tasks in a new project"
    lines = [Line(what, who, series([seconds * 1000 for seconds in values], "ms")) for who, values in taken.items()]
    lines += [
        Line(f"{what}, beside {peer}", kind, ratios(taken[kind], taken[peer]), goal=goals.SMALL_PLAN)
        for peer in peers
        for kind in STORES
    ]
    return lines


def _in_one(stack: OurStack, plans: int, each: int) -> float:
    return stack.seconds_of([("bench", no_ops(each)) for _ in range(plans)])


def _in_many(stack: OurStack, projects: int, each: int) -> float:
    """In projects that the worker has never seen."""
    return stack.seconds_of([(f"project-{next(_new)}", no_ops(each)) for _ in range(projects)])
