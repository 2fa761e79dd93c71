"""Throughput, hops, fan-out and fan-in, one-off jobs: ours on both stores beside the peers, taking turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import goals
from benchmarks import peers as systems
from benchmarks.bench import PAIR, STORES, Bench, no_op
from benchmarks.goals import Goal
from benchmarks.measure import in_turns, ratios, series
from benchmarks.report import Line
from coordination import Task

RAW = ("celery", "celery_solo")
"""The two ways of raw Celery that ours are held against."""

THROUGHPUT = ("celery", "celery_solo", "celery_sql", "dramatiq", "procrastinate", "dbos")
HOPS = ("celery", "celery_solo", "dramatiq", "procrastinate", "dbos")
FAN = ("celery", "celery_solo", "dramatiq", "dbos")

_one_offs = itertools.count()


def throughput(bench: Bench) -> list[Line]:
    """No-op Python tasks, all ready from the start."""
    count = bench.size(5000)
    peers = {name: (lambda peer=peer: peer.no_ops(count)) for name, peer in bench.peers(*THROUGHPUT).items()}
    taken = in_turns(bench.rounds, {**peers, **_ours(bench, lambda: no_ops(count), pair=True)})
    held = dict.fromkeys(RAW, goals.THROUGHPUT_BESIDE_CELERY) | {"dbos": goals.THROUGHPUT_BESIDE_DBOS}
    return rates(f"throughput, {count:,} no-op tasks", taken, count, THROUGHPUT, held)


def one_off(bench: Bench) -> list[Line]:
    """Python tasks that do nothing, each of a kind that was never seen: how long they take has to be found out."""
    count = bench.size(2000)
    peers = {name: (lambda peer=peer: peer.no_ops(count)) for name, peer in bench.peers(*RAW).items()}
    taken = in_turns(bench.rounds, {**peers, **_ours(bench, lambda: one_offs(count))})
    held = dict.fromkeys(RAW, goals.ONE_OFF)
    return rates(f"one-off jobs, {count:,} of as many kinds", taken, count, RAW, held)


def hops(bench: Bench) -> list[Line]:
    """A chain: each task needs the one before."""
    count = bench.size(200)
    peers = {name: (lambda peer=peer: peer.chain(count)) for name, peer in bench.peers(*HOPS).items()}
    taken = in_turns(bench.rounds, {**peers, **_ours(bench, lambda: chain(count))})
    hop = {who: [seconds / count * 1000 for seconds in found] for who, found in taken.items()}
    return times(f"hop in a chain of {count}", hop, "ms", HOPS, dict.fromkeys(RAW, goals.HOP))


def fan(bench: Bench) -> list[Line]:
    """One task, then many, then one that needs them all."""
    count = bench.size(1000)
    peers = {name: (lambda peer=peer: peer.fan(count)) for name, peer in bench.peers(*FAN).items()}
    taken = in_turns(bench.rounds, {**peers, **_ours(bench, lambda: fanned(count), pair=True)})
    return times(f"1 -> {count:,} -> 1", taken, "s", FAN, dict.fromkeys(RAW, goals.FAN))


def no_ops(count: int) -> list[Task]:
    """Tasks that do nothing, of one kind."""
    return [no_op(f"t{index}") for index in range(count)]


def one_offs(count: int) -> list[Task]:
    """Tasks that do nothing, each under a name that no task had before in this process."""
    return [Task(f"t{index}", {"python": f"benchmarks.jobs:job_{next(_one_offs)}"}) for index in range(count)]


def chain(count: int) -> list[Task]:
    """Each needs the one before."""
    return [no_op(f"t{index}", needs=[f"t{index - 1}"] if index else ()) for index in range(count)]


def fanned(count: int) -> list[Task]:
    """One, then *count*, then one."""
    middle = [no_op(f"t{index}", needs=["first"]) for index in range(count)]
    return [no_op("first"), *middle, no_op("last", needs=[task.key for task in middle])]


def rates(
    what: str, taken: Mapping[str, Sequence[float]], count: int, asked: Sequence[str], held: Mapping[str, Goal]
) -> list[Line]:
    """Tasks per second of every side, and ours beside those peers that *held* names, more being better."""
    found = {who: [count / seconds for seconds in values] for who, values in taken.items()}
    return _lines(what, found, "tasks/s", asked, held)


def times(
    what: str, taken: Mapping[str, Sequence[float]], unit: str, asked: Sequence[str], held: Mapping[str, Goal]
) -> list[Line]:
    """The time of every side, and ours beside those peers that *held* names, less being better."""
    return _lines(what, taken, unit, asked, held)


def _lines(
    what: str, found: Mapping[str, Sequence[float]], unit: str, asked: Sequence[str], held: Mapping[str, Goal]
) -> list[Line]:
    absent = [Line(what, name, None, note=systems.missing(name) or "") for name in asked if name not in found]
    lines = [Line(what, who, series(values, unit)) for who, values in found.items()]
    for peer, goal in held.items():
        if peer in found:
            lines += [
                Line(f"{what}, beside {peer}", kind, ratios(found[kind], found[peer]), goal=goal)
                for kind in (*STORES, PAIR)
                if kind in found and not (peer == "dbos" and kind == "sqlite")  # that goal is one for PostgreSQL
            ]
    return [*lines, *absent]


def _ours(bench: Bench, tasks: Callable[[], list[Task]], *, pair: bool = False) -> dict[str, Callable[[], float]]:
    def side(stack: Any) -> Callable[[], float]:
        return lambda: stack.seconds(tasks())

    sides = {kind: side(stack) for kind, stack in bench.ours.items()}
    return {**sides, PAIR: side(bench.pair)} if pair else sides
