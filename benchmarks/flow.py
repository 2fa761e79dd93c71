"""Throughput, hops, fan-out and fan-in: ours on both stores beside raw Celery, taking turns."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import STORES, Bench, no_op
from benchmarks.measure import Series, series
from benchmarks.report import Line


def throughput(bench: Bench) -> list[Line]:
    """No-op Python tasks, all ready from the start."""
    count = bench.size(5000)
    taken = _in_turns(
        bench,
        lambda: bench.peer.no_ops(count),
        lambda kind: bench.ours[kind].seconds([no_op(f"t{index}") for index in range(count)]),
    )
    rates = {who: series([count / seconds for seconds in found.values], "tasks/s") for who, found in taken.items()}
    return _lines(f"throughput, {count:,} no-op tasks, from submission to the last end", rates, higher=True)


def hops(bench: Bench) -> list[Line]:
    """A chain: each task needs the one before."""
    count = bench.size(200)

    def peer() -> float:
        from celery import chain

        nothing, over = bench.peer.peer.nothing, bench.peer.peer.over
        return bench.peer.until_over(lambda key: chain(*[nothing.si()] * (count - 1), over.si(key)).apply_async())

    def ours(kind: str) -> float:
        tasks = [no_op(f"t{index}", needs=[f"t{index - 1}"] if index else ()) for index in range(count)]
        return bench.ours[kind].seconds(tasks)

    taken = _in_turns(bench, peer, ours)
    hop = {who: series([seconds / count * 1000 for seconds in found.values], "ms") for who, found in taken.items()}
    return _lines(f"hop in a chain of {count}", hop, higher=False)


def fan(bench: Bench) -> list[Line]:
    """One task, then many, then one that needs them all."""
    count = bench.size(1000)

    def peer() -> float:
        from celery import chord, group

        one = bench.peer.peer

        def send(key: str) -> None:
            (one.part.si() | chord(group(one.part.si() for _ in range(count)), one.over.si(key))).apply_async()

        return bench.peer.until_over(send)

    def ours(kind: str) -> float:
        middle = [no_op(f"t{index}", needs=["first"]) for index in range(count)]
        last = no_op("last", needs=[task.key for task in middle])
        return bench.ours[kind].seconds([no_op("first"), *middle, last])

    return _lines(f"1 -> {count:,} -> 1", _in_turns(bench, peer, ours), higher=False)


def _in_turns(bench: Bench, peer: Callable[[], float], ours: Callable[[str], float]) -> dict[str, Series]:
    """Seconds of every side, round by round, so that a slow minute of the machine meets all of them."""
    found: dict[str, list[float]] = {who: [] for who in ("celery", *STORES)}
    for _ in range(bench.rounds):
        found["celery"].append(peer())
        for kind in STORES:
            found[kind].append(ours(kind))
    return {who: series(values, "s") for who, values in found.items()}


def _lines(what: str, found: dict[str, Series], *, higher: bool) -> list[Line]:
    peer = found["celery"]
    more = "more is better" if higher else "less is better"
    return [
        Line(what, who, of, ratio=None if who == "celery" else of.median / peer.median, note=more)
        for who, of in found.items()
    ]
