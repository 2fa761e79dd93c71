"""A recorded workflow: as no-ops beside raw Celery with counters in Redis, and with its own durations, scaled down."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import goals
from benchmarks.bench import PAIR, Bench, OurStack, no_op
from benchmarks.flow import RAW, times
from benchmarks.measure import in_turns, series
from benchmarks.ours import SLOTS
from benchmarks.report import Line
from benchmarks.workflow import Workflow, read
from coordination import Task

_REPLAY = 10.0
"""Seconds that the replay takes at best: the durations are scaled to that."""


def as_no_ops(bench: Bench) -> list[Line]:
    """Every task does nothing; what is left is the graph."""
    workflow = _workflow(bench)
    children = workflow.children()
    numbers = {step.id: number for number, step in enumerate(workflow.steps)}
    tasks = [
        no_op(f"t{number}", needs=[f"t{numbers[parent]}" for parent in step.parents])
        for number, step in enumerate(workflow.steps)
    ]

    def side(stack: OurStack) -> Callable[[], float]:
        return lambda: stack.seconds(tasks)

    peers = {name: (lambda peer=peer: peer.graph(children)) for name, peer in bench.peers(*RAW).items()}
    taken = in_turns(
        bench.rounds, {**peers, **{kind: side(stack) for kind, stack in bench.ours.items()}, PAIR: side(bench.pair)}
    )
    what = f"{bench.workflow.stem}: {len(workflow.steps):,} no-op tasks, {workflow.edges:,} edges"
    return times(what, taken, "s", RAW, dict.fromkeys(RAW, goals.WORKFLOW))


def replayed(bench: Bench) -> list[Line]:
    """Every task sleeps for its share of its recorded run time; beside what no scheduler could beat."""
    workflow = _workflow(bench)
    slots = SLOTS * bench.workers
    bound = max(_REPLAY * min(1.0, bench.scale * 5), 0.5)
    scale = bound / workflow.lower_bound(slots)
    tasks = napping(workflow, scale)

    def side(stack: OurStack) -> Callable[[], float]:
        return lambda: stack.seconds(tasks, project="replay")

    taken = in_turns(bench.rounds, {kind: side(stack) for kind, stack in bench.ours.items()})
    what = f"{bench.workflow.stem}, durations x {scale:.3g}"
    seconds = [
        Line(f"{what}, no less than {bound:g} s on {slots} slots", kind, series(found, "s"))
        for kind, found in taken.items()
    ]
    beside = [
        Line(f"{what}, beside its lower bound", kind, series([one / bound for one in found], "x"), goal=goals.REPLAY)
        for kind, found in taken.items()
    ]
    return seconds + beside


def napping(workflow: Workflow, scale: float) -> list[Task]:
    """The workflow's tasks as Python jobs that sleep, each program a kind of its own."""
    numbers = {step.id: number for number, step in enumerate(workflow.steps)}
    return [
        Task(
            f"t{number}",
            {"python": f"benchmarks.jobs:nap_{step.program}", "args": {"seconds": step.seconds * scale}},
            needs=[f"t{numbers[parent]}" for parent in step.parents],
        )
        for number, step in enumerate(workflow.steps)
    ]


def _workflow(bench: Bench) -> Workflow:
    whole = read(bench.workflow)
    return whole if bench.full else whole.core(max(20, bench.size(len(whole.steps))))
