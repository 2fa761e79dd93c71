"""What each short cut of our workers is worth: the same measurements with it and without it, side by side.

Not part of a full run; ``python -m benchmarks variants`` measures, with a stack of its own for each, taking turns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.altered import SHORTCUTS, WITHOUT
from benchmarks.bench import STORES, Bench, OurStack
from benchmarks.flow import chain, fanned, no_ops, one_offs
from benchmarks.measure import in_turns, ratios, series
from benchmarks.report import Line
from benchmarks.running import cost
from coordination import Task

WHOLE = "everything"
_IN_RUNNING = ("one heartbeat",)  # measured by another part: it says nothing about jobs that are over at once


def measure(bench: Bench) -> list[Line]:
    """Throughput, hops, fan-out and one-off jobs on both stores: everything, then without one short cut at a time."""
    many, long, wide, odd = bench.size(5000), bench.size(200), bench.size(1000), bench.size(500)
    shapes: dict[str, tuple[Callable[[], list[Task]], Callable[[float], float], str]] = {
        f"throughput, {many:,} no-op tasks": (lambda: no_ops(many), lambda seconds: many / seconds, "tasks/s"),
        f"hop in a chain of {long}": (lambda: chain(long), lambda seconds: seconds / long * 1000, "ms"),
        f"1 -> {wide:,} -> 1": (lambda: fanned(wide), lambda seconds: seconds, "s"),
        f"one-off jobs, {odd:,} of as many kinds": (
            lambda: one_offs(odd),
            lambda seconds: odd / seconds,
            "tasks/s",
        ),
    }
    names = [WHOLE, *(name for name in SHORTCUTS if name not in _IN_RUNNING)]
    lines = []
    for kind in STORES:  # one store after the other, so that no more than these are up at once
        with contextlib.ExitStack() as opened:
            stacks: dict[str, OurStack] = {}
            for number, name in enumerate(names, start=1):  # a Redis database each; there are 15
                if kind == "sqlite" and name == "preparing":
                    continue
                extra = {} if name == WHOLE else {WITHOUT: name}
                stacks[name] = bench.warm_stack(kind, database=number, extra=extra)
                opened.callback(stacks[name].close)
            for what, (tasks, figure, unit) in shapes.items():
                taken = in_turns(bench.rounds, {name: _side(stack, tasks) for name, stack in stacks.items()})
                found = {name: [figure(seconds) for seconds in values] for name, values in taken.items()}
                lines += [
                    Line(
                        what if name == WHOLE else f"{what}: {SHORTCUTS[name][0]}",
                        kind,
                        series(values, unit),
                        ratio=None if name == WHOLE else ratios(values, found[WHOLE]).median,
                    )
                    for name, values in found.items()
                ]
    return [*lines, *_heartbeats(bench)]


def _heartbeats(bench: Bench) -> list[Line]:
    """What running jobs cost the database, with one statement for all that a process runs and with one for each."""
    jobs, window = bench.size(250), max(30.0 * bench.scale, 2.0)
    lines = []
    for name in (WHOLE, "one heartbeat"):
        extra = {} if name == WHOLE else {WITHOUT: name}
        _, (ours, servers) = cost(bench, jobs=jobs, workers=1, window=window, extra=extra)
        what = f"{jobs} running jobs" + ("" if name == WHOLE else f": {SHORTCUTS[name][0]}")
        lines.append(Line(f"{what}: our process", "postgresql", series([ours], "% of a core")))
        lines.append(Line(f"{what}: PostgreSQL and Redis", "postgresql", series([servers], "% of a core")))
    return lines


def _side(stack: OurStack, tasks: Callable[[], list[Task]]) -> Callable[[], float]:
    return lambda: stack.seconds(tasks())
