"""The promises as rules over facts and evidence; each yields every violation that it finds, and changes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from tests.chaos.checker.facts import Event, Facts
from tests.chaos.evidence import Account, Execution

_TERMINAL = {"completed", "failed", "canceled"}
_KNOWN_END = {"completed", "failed", "timed_out", "deferred", "handed_back"}  # the worker itself wrote it
_MICRO = Decimal("0.000001")


class Kind(StrEnum):
    """The kinds of violations."""

    LOST = "lost"
    DOUBLED = "doubled"
    CHARGED = "charged for what others did"
    OVERLAP = "overlap"
    FENCE = "fenced write left a trace"
    EARLY = "released too early"
    LIMIT = "limit passed"
    REPEATED = "repeated what must not be"
    COST_MISSING = "cost missing"
    COST_DOUBLED = "cost doubled"
    COST_WRONG = "cost wrong"
    SLOT = "slot not given back"
    ORPHAN = "refers to nothing"
    LATE = "later than promised"
    LEFT = "left behind"
    DEADLOCK = "deadlock"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    kind: Kind
    what: str


@dataclass(frozen=True, slots=True)
class Promises:
    """Facts from outside the store: acknowledged runs (id -> number of tasks), limits by project's name.

    ``hit``: processes that faults have killed directly.
    """

    runs: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    hit: AbstractSet[int] = frozenset()


Rule = Callable[[Facts, Account, Promises], Iterator[Violation]]


def every_task_ended_once(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that a task has at most one completion, by its last attempt, with evidence."""
    stories = facts.events_of_tasks()
    for task in facts.tasks.values():
        name = f"{task.key} ({task.id})"
        if task.state not in _TERMINAL:
            yield Violation(Kind.LOST, f"{name} is {task.state}, reasons {task.reasons}")
        completions = [event for event in stories.get(task.id, []) if event.type == "completed"]
        done = [attempt for attempt in facts.attempts.get(task.id, []) if attempt.outcome == "completed"]
        if len(completions) > 1 or len(done) > 1:
            numbers = [event.attempt for event in completions], [attempt.number for attempt in done]
            yield Violation(Kind.DOUBLED, f"{name} completed more than once: events and attempts {numbers}")
        if task.state == "completed":
            if [event.attempt for event in completions] != [task.attempt] or [a.number for a in done] != [task.attempt]:
                yield Violation(Kind.LOST, f"{name} is completed without the completion of its attempt {task.attempt}")
        elif completions or done:
            yield Violation(Kind.LOST, f"{name} was completed, and is {task.state}")
        yield from _nothing_after_the_end(name, stories.get(task.id, []))
        rows = [attempt.number for attempt in facts.attempts.get(task.id, [])]
        if rows != list(range(1, task.attempt + 1)):
            yield Violation(Kind.LOST, f"{name} has attempt {task.attempt}, and rows for {rows}")
        for attempt in facts.attempts.get(task.id, []):
            if attempt.outcome is None:
                yield Violation(Kind.LOST, f"attempt {attempt.number} of {name} has no end")


def _nothing_after_the_end(name: str, story: list[Event]) -> Iterator[Violation]:
    ended, claimed = False, set()
    for event in story:
        if event.type in _TERMINAL:
            if ended:
                yield Violation(Kind.DOUBLED, f"{name} ended, and ended again as {event.type}")
            ended = True
        elif event.type == "retried" and event.payload.get("by") == "person":
            ended = False
        elif event.type == "claimed":
            if ended:
                yield Violation(Kind.DOUBLED, f"{name} was claimed after its end")
            if event.attempt in claimed:
                yield Violation(Kind.DOUBLED, f"attempt {event.attempt} of {name} was claimed twice")
            claimed.add(event.attempt)


def acknowledged_runs_are_there(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that every acknowledged submission is stored, and that its end is written once."""
    sizes = Counter(task.run_id for task in facts.tasks.values())
    finished = Counter(event.run_id for event in facts.events if event.type == "run_finished")
    reopened = Counter(event.run_id for event in facts.events if event.type == "run_reopened")
    for run, size in promises.runs.items():
        if sizes[run] != size:
            yield Violation(Kind.LOST, f"run {run} was acknowledged with {size} tasks and has {sizes[run]}")
    for run, ended in facts.runs.items():
        if not ended:
            yield Violation(Kind.LOST, f"run {run} has no end")
        elif finished[run] != 1 + reopened[run]:
            counts = f"{finished[run]} ends for {reopened[run]} reopenings"
            yield Violation(Kind.DOUBLED, f"run {run} has {counts}")


def attempts_never_overlap(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check by the evidence that an execution had its last effect before the next one of its task began."""
    for task, executions in account.by_task.items():
        key = facts.tasks[task].key if task in facts.tasks else "?"
        latest: Execution | None = None
        numbers: set[int] = set()
        for execution in executions:
            if latest is not None and latest.last > execution.first:
                yield Violation(
                    Kind.OVERLAP,
                    f"{key} ({task}): attempt {latest.attempt} ({latest.name}, {_at(latest)}) had an effect after "
                    f"attempt {execution.attempt} ({execution.name}, {_at(execution)}) had begun",
                )
            if execution.attempt in numbers:
                yield Violation(Kind.DOUBLED, f"{key} ({task}): attempt {execution.attempt} was executed twice")
            numbers.add(execution.attempt)
            if latest is None or execution.last > latest.last:
                latest = execution


def only_failures_are_charged(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that attempts failed only by their job's failure or a kill of its process, and tasks by such attempts."""
    for task in facts.tasks.values():
        name = f"{task.key} ({task.id})"
        executions = {execution.attempt: execution for execution in account.by_task.get(task.id, [])}
        rows = facts.attempts.get(task.id, [])
        for attempt in rows:
            if attempt.outcome not in {"failed", "timed_out"}:
                continue
            ran = executions.get(attempt.number)
            # If an interpreter was killed before its job wrote anything, its pid is unknown.
            text = "SIGKILL" in str(attempt.error) if ran is None else ran.end == "F" or ran.pid in promises.hit
            if not text:
                yield Violation(Kind.CHARGED, f"attempt {attempt.number} of {name}: {attempt.outcome}, {attempt.error}")
        if task.state == "failed" and rows and rows[-1].outcome not in {"failed", "timed_out"}:
            yield Violation(Kind.CHARGED, f"{name} failed with an attempt that was {rows[-1].outcome}: {task.error}")


def _at(execution: Execution) -> str:
    return f"pid {execution.pid} of {execution.parent}, {execution.first_up:.3f} to {execution.last_up:.3f}"


def fenced_writes_leave_no_trace(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that a completed task has its completing execution's values, and that a lost attempt stored nothing."""
    for task in facts.tasks.values():
        for attempt in facts.attempts.get(task.id, []):
            name = f"attempt {attempt.number} of {task.key} ({task.id})"
            # The output of a job that its worker ended in time may be kept; the result of one may not.
            if attempt.outcome in {"lost", "canceled"} and attempt.output:
                yield Violation(Kind.FENCE, f"{name} was {attempt.outcome} and left the output {attempt.output!r}")
            if attempt.outcome == "completed":
                output = account.executions.get(str(attempt.output))
                if output is None or output.end != "E" or (output.task, output.attempt) != (task.id, attempt.number):
                    yield Violation(Kind.FENCE, f"{name} is completed with {attempt.output!r}, which it never said")


def released_only_when_due(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check by log and evidence that a task is claimed only after all its needs have ended as required."""
    good: dict[str, int] = {}
    bad: dict[str, int] = {}
    first_claims: dict[str, int] = {}
    for event in facts.events:
        if event.task_id is None:
            continue
        if event.type == "completed":
            good.setdefault(event.task_id, event.seq)
        elif event.type in {"failed", "canceled"}:
            bad.setdefault(event.task_id, event.seq)
        elif event.type == "claimed":
            first_claims.setdefault(event.task_id, event.seq)
    for child, claimed in first_claims.items():
        for parent in facts.parents.get(child, []):
            anyway = facts.tasks[child].on_dependency_failure == "run" and bad.get(parent, claimed) < claimed
            if not anyway:
                yield from _began_early(facts, account, parent, child, in_order=good.get(parent, claimed) < claimed)


def _began_early(facts: Facts, account: Account, parent: str, child: str, *, in_order: bool) -> Iterator[Violation]:
    name = f"{facts.tasks[child].key} ({child})"
    if not in_order:
        yield Violation(Kind.EARLY, f"{name} was claimed before {parent} had completed")
    if (parent, child) in facts.unsatisfied:
        yield Violation(Kind.EARLY, f"{name} ran over an edge that is not satisfied")
    began = min((execution.first for execution in account.by_task.get(child, [])), default=None)
    ended = [execution.last for execution in account.by_task.get(parent, []) if execution.end == "E"]
    if began is not None and not any(end < began for end in ended):
        yield Violation(Kind.EARLY, f"{name} began before {parent} was through")


def limits_are_kept(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check by the evidence that no more jobs had effects at once than their project and key allow."""
    moves: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
    caps: dict[tuple[str, str], int] = {}
    for execution in account.executions.values():
        task = facts.tasks.get(execution.task)
        if task is None:
            continue
        project = facts.projects[task.project_id]
        names = []
        if project in promises.limits:
            caps[project, "project"] = promises.limits[project]
            names.append("project")
        if task.concurrency_key is not None:
            name = f"key:{task.concurrency_key}"
            caps[project, name] = promises.keys.get(project, {}).get(task.concurrency_key, 1)
            names.append(name)
        for name in names:
            moves[project, name] += [(execution.first, 1, execution.name), (execution.last, -1, execution.name)]
    for where, result in moves.items():
        running: set[str] = set()
        for place, change, name in sorted(result, key=lambda move: (move[0], -move[1])):
            if change < 0:
                running.discard(name)
                continue
            running.add(name)
            if len(running) > caps[where]:
                yield Violation(
                    Kind.LIMIT, f"{' '.join(where)}: {len(running)} at once, at most {caps[where]}, at line {place}"
                )


def the_unrepeatable_ran_once(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that an unrepeatable job began once, and once more for each decision of a person."""
    messages: Counter[str] = Counter(
        event.task_id
        for event in facts.events
        if event.task_id and event.type == "retried" and event.payload.get("by") == "person"
    )
    for task in facts.tasks.values():
        began = len(account.by_task.get(task.id, []))
        if not task.repeatable and began > 1 + messages[task.id]:
            yield Violation(
                Kind.REPEATED, f"{task.key} ({task.id}) began {began} times, a person asked {messages[task.id]}"
            )


def costs_add_up(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that the ledger holds every reported call of every attempt with a known end, none twice, none invented."""
    outcomes = {(task, attempt.number): attempt.outcome for task, rows in facts.attempts.items() for attempt in rows}
    entries = Counter(cost.call for cost in facts.costs)
    for call, times in entries.items():
        if times > 1:
            yield Violation(Kind.COST_DOUBLED, f"call {call} is in the ledger {times} times")
    for cost in facts.costs:
        execution = account.executions.get((cost.call or "").partition("-")[0])
        intended = execution.intended.get(cost.call or "") if execution else None
        if execution is None or intended is None:
            yield Violation(Kind.COST_WRONG, f"call {cost.call} is in the ledger, and no job made it")
        elif cost.usd != intended * _MICRO or (cost.task_id, cost.attempt) != (execution.task, execution.attempt):
            yield Violation(
                Kind.COST_WRONG, f"call {cost.call} cost {intended} microdollars, the ledger says {cost.usd}"
            )
        elif cost.stale and outcomes.get((execution.task, execution.attempt)) == "completed":
            yield Violation(Kind.COST_WRONG, f"call {cost.call} of a completed attempt is marked stale")
    for execution in account.executions.values():
        if outcomes.get((execution.task, execution.attempt)) in _KNOWN_END and _is_the_stored_one(facts, execution):
            for call in execution.reported.keys() - entries.keys():
                yield Violation(Kind.COST_MISSING, f"call {call} of {execution.task} is not in the ledger")


def _is_the_stored_one(facts: Facts, execution: Execution) -> bool:
    stored = facts.attempts[execution.task][execution.attempt - 1]
    return stored.outcome != "completed" or stored.output == execution.name


def slots_are_given_back(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that no slot is in use when nothing runs."""
    for project, name, used in facts.slots:
        if used:
            yield Violation(Kind.SLOT, f"{name} of {facts.projects.get(project, project)} has {used} in use")


def rows_refer_to_rows(facts: Facts, account: Account, promises: Promises) -> Iterator[Violation]:
    """Check that attempts and edges have existing tasks, and tasks existing runs. PostgreSQL does not check that."""
    for task_id in facts.attempts.keys() - facts.tasks.keys():
        yield Violation(Kind.ORPHAN, f"attempts of {task_id}, which is no task")
    ends = {*facts.parents, *(parent for parents in facts.parents.values() for parent in parents)}
    for task_id in ends - facts.tasks.keys():
        yield Violation(Kind.ORPHAN, f"an edge of {task_id}, which is no task")
    for run_id in {task.run_id for task in facts.tasks.values()} - facts.runs.keys():
        yield Violation(Kind.ORPHAN, f"tasks of {run_id}, which is no run")


RULES: tuple[Rule, ...] = (
    every_task_ended_once,
    acknowledged_runs_are_there,
    attempts_never_overlap,
    only_failures_are_charged,
    fenced_writes_leave_no_trace,
    released_only_when_due,
    limits_are_kept,
    the_unrepeatable_ran_once,
    costs_add_up,
    slots_are_given_back,
    rows_refer_to_rows,
)


def rescued_in_time(facts: Facts, disturbed: Sequence[tuple[float, float]], bound: float) -> Iterator[Violation]:
    """Check that a lost attempt is ended within *bound* seconds of its lease's end, without *disturbed* time.

    *disturbed*: from, to, in seconds of the epoch; the times of the store are of the same clock.
    """
    spans = _joined(disturbed)
    for task, attempts in facts.attempts.items():
        for attempt in attempts:
            if attempt.outcome != "lost" or attempt.finished_at is None:
                continue
            start, end = attempt.lease_until.timestamp(), attempt.finished_at.timestamp()
            excused = sum(max(0.0, min(end, to) - max(start, since)) for since, to in spans)
            if end - start - excused > bound:
                what = f"attempt {attempt.number} of {facts.tasks[task].key} ({task})"
                yield Violation(
                    Kind.LATE, f"{what} was ended {end - start:.1f} s after its lease, {excused:.1f} excused"
                )


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for since, to in sorted(spans):
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], to))
        else:
            joined.append((since, to))
    return joined


def unrecorded(facts: Facts, account: Account) -> Decimal:
    """Return reports of jobs to workers that died before they could write them: these are in no ledger."""
    names = {cost.call for cost in facts.costs}
    lost = [
        amount
        for execution in account.executions.values()
        for call, amount in execution.reported.items()
        if call not in names
    ]
    return sum(lost) * _MICRO
