"""Which parts there are, in the order in which they are measured, and which sides each needs to be up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import (
    account,
    agents,
    budgets,
    chats,
    event_log,
    flow,
    graphs,
    growth,
    killed,
    ledger,
    limits,
    listing,
    memory,
    overspend,
    projects,
    releasing,
    running,
    startup,
    submission,
    sums,
    variants,
    wakeup,
    worktrees,
)
from benchmarks.bench import Bench
from benchmarks.report import Line


@dataclass(frozen=True, slots=True)
class Part:
    """One measurement; every side that it does not name is stopped before it begins."""

    measure: Callable[[Bench], list[Line]]
    peers: tuple[str, ...] = ()
    ours: bool = False


PARTS = {
    "limits": Part(limits.measure),
    "throughput": Part(flow.throughput, peers=flow.THROUGHPUT, ours=True),
    "projects": Part(projects.measure, peers=flow.RAW, ours=True),
    "hops": Part(flow.hops, peers=flow.HOPS, ours=True),
    "fan": Part(flow.fan, peers=flow.FAN, ours=True),
    "workflow": Part(graphs.as_no_ops, peers=flow.RAW, ours=True),
    "one-off": Part(flow.one_off, peers=flow.RAW, ours=True),
    "replay": Part(graphs.replayed, ours=True),
    "wakeup": Part(wakeup.measure, ours=True),
    "agents": Part(agents.measure, ours=True),
    "running": Part(running.measure),
    "worktrees": Part(worktrees.measure),
    "budgets": Part(budgets.measure, ours=True),
    "overspend": Part(overspend.measure),
    "killed": Part(killed.measure),
    "submission": Part(submission.measure),
    "startup": Part(startup.measure),
    "listing": Part(listing.measure),
    "memory": Part(memory.measure),
    "chats": Part(chats.measure),
    "releasing": Part(releasing.measure),
    "growth": Part(growth.measure),
    "event-log": Part(event_log.measure),
    "sums": Part(sums.measure),
    "ledger": Part(ledger.measure),
    "variants": Part(variants.measure),
    "account": Part(account.measure, peers=("celery",)),
}

WHEN_NAMED = ("variants", "account")
BY_DEFAULT = tuple(name for name in PARTS if name not in WHEN_NAMED)
