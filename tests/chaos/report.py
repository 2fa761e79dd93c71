"""Numbers of a run as JSON, and of many runs as one Markdown table: ``python -m tests.chaos.report FILE…``."""

from __future__ import annotations

import json
import statistics
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import evidence
from tests.chaos.checker.facts import Facts
from tests.chaos.checker.rules import Kind, Violation, unrecorded
from tests.chaos.evidence import Account, Execution


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """One injected fault. ``at``: seconds since the machine was started; ``victims``: processes whose jobs it hit."""

    kind: str
    at: float
    duration: float
    what: str
    victims: frozenset[int]
    alone: bool
    broad: bool = False


@dataclass(slots=True)
class KindFigures:
    """All faults of a kind: how many, and the seconds until recovery of each."""

    count: int = 0
    recovered: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The report of one run."""

    seed: int
    store: str
    command: str
    seconds: float
    tormented: float
    faults: dict[str, KindFigures]
    tasks: int
    attempts: int
    executions: int
    lost: int
    doubled: int
    lost_attempts: int
    failed_tasks: int
    decisions: int
    unrecorded_usd: str
    ledger_usd: str
    tracebacks: int
    deadlocks: int
    violations: list[Violation]

    @property
    def count(self) -> int:
        """Return the number of all faults."""
        return sum(each.count for each in self.faults.values())

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of the report's file."""
        return asdict(self)


def figures(
    *,
    seed: int,
    store: str,
    command: str,
    seconds: float,
    tormented: float,
    records: Sequence[FaultRecord],
    facts: Facts,
    evidence_file: Path,
    violations: Sequence[Violation],
    epoch: float,
    bound: float,
    decisions: int,
    tracebacks: int,
    deadlocks: int,
) -> Report:
    """Count and time everything; a single fault without recovery within *bound* is a violation too.

    *epoch*: when the machine was started, in seconds of the epoch: evidence counts from there.
    """
    account = evidence.account_of(evidence_file)
    result = list(violations)
    by_kind: dict[str, KindFigures] = defaultdict(KindFigures)
    timer = Timer(account, facts, epoch=epoch)
    for record in records:
        one = by_kind[record.kind]
        one.count += 1
        took = timer.recovered(record)
        if took is None:
            continue
        one.recovered.append(round(took, 3))
        if record.alone:
            one.alone.append(round(took, 3))
            if took > bound + record.duration:
                result.append(Violation(Kind.LATE, f"{record.kind} ({record.what}): work went on after {took:.1f} s"))
    return Report(
        seed=seed,
        store=store,
        command=command,
        seconds=round(seconds, 1),
        tormented=round(tormented, 1),
        faults=dict(sorted(by_kind.items())),
        tasks=len(facts.tasks),
        attempts=sum(len(each) for each in facts.attempts.values()),
        executions=len(account.executions),
        lost=sum(violation.kind is Kind.LOST for violation in result),
        doubled=sum(violation.kind is Kind.DOUBLED for violation in result),
        lost_attempts=sum(attempt.outcome == "lost" for each in facts.attempts.values() for attempt in each),
        failed_tasks=sum(task.state == "failed" for task in facts.tasks.values()),
        decisions=decisions,
        unrecorded_usd=str(unrecorded(facts, account)),
        ledger_usd=str(sum(cost.usd or 0 for cost in facts.costs)),
        tracebacks=tracebacks,
        deadlocks=deadlocks,
        violations=result,
    )


class Timer:
    """Measures from the evidence when tasks progressed again after a fault."""

    def __init__(self, account: Account, facts: Facts, *, epoch: float) -> None:
        self._facts, self._epoch = facts, epoch
        self._by_start = sorted(account.executions.values(), key=lambda execution: execution.first_up)
        self._starts = [execution.first_up for execution in self._by_start]

    def recovered(self, record: FaultRecord) -> float | None:
        """Return the seconds from the fault until the store had the end of every attempt that it hit.

        Where it hit none: until a job that began after it (and its healing) had ended; None when the run was over.
        """
        if record.victims:
            waits = [self._ended(execution, record.at) for execution in self._running(record)]
            durations = [wait for wait in waits if wait is not None]
            if durations:
                return max(durations)
        place = bisect_right(self._starts, record.at + record.duration)
        ends = [each.last_up for each in self._by_start[place : place + 50] if each.end is not None]
        return min(ends) - record.at - record.duration if ends else None

    def _running(self, record: FaultRecord) -> Iterable[Execution]:
        place = bisect_right(self._starts, record.at)
        for execution in self._by_start[max(0, place - 2000) : place]:
            if record.victims & {execution.pid, execution.parent} and not (
                execution.end is not None and execution.last_up <= record.at
            ):
                yield execution

    def _ended(self, execution: Execution, at: float) -> float | None:
        """Return the seconds from *at* until the end of its attempt was written: its task had ended or was ready."""
        attempts = self._facts.attempts.get(execution.task, [])
        if execution.attempt > len(attempts):
            return None
        moment = attempts[execution.attempt - 1].finished_at
        took = moment.timestamp() - self._epoch - at if moment is not None else -1
        return took if took >= 0 else None


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Return reports as one Markdown table and the sums below it."""
    kinds: dict[str, KindFigures] = defaultdict(KindFigures)
    for report in reports:
        for kind, one in report["faults"].items():
            kinds[kind].count += one["count"]
            kinds[kind].recovered += one["recovered"]
            kinds[kind].alone += one["alone"]
    lines = [
        "| fault | times | work went on after, median | worst | alone: times | median | worst |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, one in sorted(kinds.items()):
        cells = [kind, str(one.count), *_cells(one.recovered), str(len(one.alone)), *_cells(one.alone)]
        lines.append(f"| {' | '.join(cells)} |")
    sums = {
        "runs": len(reports),
        "faults": sum(one.count for one in kinds.values()),
        "tasks": sum(report["tasks"] for report in reports),
        "attempts": sum(report["attempts"] for report in reports),
        "attempts lost with their worker": sum(report["lost_attempts"] for report in reports),
        "tasks lost": sum(report["lost"] for report in reports),
        "tasks completed twice": sum(report["doubled"] for report in reports),
        "deadlocks": sum(report.get("deadlocks", 0) for report in reports),
        "other broken promises": sum(
            len(report["violations"]) - report["lost"] - report["doubled"] - report.get("deadlocks", 0)
            for report in reports
        ),
    }
    lines += ["", "| in all | |", "|---|--:|", *(f"| {name} | {value:,} |" for name, value in sums.items())]
    seeds = ", ".join(f"{report['store']} {report['seed']}" for report in reports)
    return "\n".join([*lines, "", f"Seeds: {seeds}."])


def _cells(values: list[float]) -> list[str]:
    if not values:
        return ["", ""]
    return [f"{statistics.median(values):.2f} s", f"{max(values):.2f} s"]


def main(files: Sequence[str]) -> int:
    """Print the table of these report files."""
    if not files:
        sys.stderr.write("usage: python -m tests.chaos.report FILE…\n")
        return 2
    sys.stdout.write(table([json.loads(Path(name).read_text(encoding="utf-8")) for name in files]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
