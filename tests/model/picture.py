"""All rows of one workspace as plain values, with names in place of ids, and the invariants of every such picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, select

from coordination.domain.tasks.tasks import BlockReason
from coordination.store.engine import Store
from coordination.store.tables.access.principals import principals
from coordination.store.tables.fleet.workers import supervisors
from coordination.store.tables.money.costs import costs
from coordination.store.tables.projects.projects import projects
from coordination.store.tables.tasks.attempts import attempts, slots
from coordination.store.tables.tasks.events import event_log
from coordination.store.tables.tasks.runs import runs
from coordination.store.tables.tasks.tasks import dependencies, tasks
from coordination.store.types import db_now

TERMINAL = frozenset({"completed", "failed", "canceled"})

Story = tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as stored; ``pending`` of an ended task has no meaning, so it is None there."""

    state: str
    reasons: frozenset[str]
    pending: int | None
    attempt: int
    failures: int
    losses: int
    deferrals: int
    cause: str | None
    due: bool


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt as stored: how it ended (None: it is open), and its places in limits."""

    outcome: str | None
    slots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """All rows of a workspace with one project, apart from texts and times."""

    project: str
    tasks: Mapping[str, TaskRow]
    attempts: Mapping[tuple[str, int], AttemptRow]
    edges: Mapping[tuple[str, str], bool]  # (parent, child) -> satisfied
    slots: Mapping[str, tuple[int, int]]  # name -> (cap, used)
    runs: Mapping[str, bool]  # name -> finished
    stories: Mapping[str, Story]  # of each task and of each run, in the order of the log
    costs: Mapping[str, tuple[str, int, bool]]  # id -> (task, attempt, stale)
    supervised: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A picture, with further values that its checks need but that are not compared."""

    picture: Picture
    policies: Mapping[str, str]
    enqueued: frozenset[str] = field(default_factory=frozenset)
    log: tuple[tuple[str, str], ...] = ()  # (task, type) in the order of the log


def take(store: Store, workspace: str) -> Taken:
    """Read the whole workspace in one snapshot."""
    with store.read() as tx:

        def every(table: Any, *columns: Any) -> list[Any]:
            wanted = columns or (table,)
            return list(tx.execute(select(*wanted).where(table.c.workspace_id == workspace)).mappings())

        due = case((tasks.c.not_before > db_now(), 0), else_=1).label("due")
        task_rows = every(tasks, tasks, due)
        keys = {row["id"]: row["key"] for row in task_rows}
        run_rows = every(runs)
        names = {row["id"]: row["name"] for row in run_rows}
        limits = {f"agent:{row['id']}": f"agent:{row['name']}" for row in every(principals)}
        log = sorted(every(event_log), key=lambda row: row["seq"])
        stories: dict[str, Story] = dict.fromkeys([*names.values(), *keys.values()], ())
        for row in log:
            whose = keys[row["task_id"]] if row["task_id"] else names[row["run_id"]]
            stories[whose] += ((row["type"], row["attempt"]),)
        picture = Picture(
            project=every(projects)[0]["status"],
            tasks={row["key"]: _task(row) for row in task_rows},
            attempts={
                (keys[row["task_id"]], row["number"]): AttemptRow(
                    row["outcome"], tuple(sorted(limits.get(name, name) for name in row["slots"] or ()))
                )
                for row in every(attempts)
            },
            edges={
                (keys[row["parent_id"]], keys[row["child_id"]]): row["satisfied_at"] is not None
                for row in every(dependencies)
            },
            slots={limits.get(row["name"], row["name"]): (row["cap"], row["used"]) for row in every(slots)},
            runs={row["name"]: row["finished_at"] is not None for row in run_rows},
            stories=stories,
            costs={row["id"]: (keys[row["task_id"]], row["attempt"], row["stale"]) for row in every(costs)},
            supervised=any(row["ended_at"] is None for row in every(supervisors)),
        )
    return Taken(
        picture,
        policies={row["key"]: row["on_dependency_failure"] for row in task_rows},
        enqueued=frozenset(row["key"] for row in task_rows if row["enqueued_at"] is not None),
        log=tuple((keys[row["task_id"]], row["type"]) for row in log if row["task_id"]),
    )


def _task(row: Any) -> TaskRow:
    return TaskRow(
        state=row["state"],
        reasons=frozenset(BlockReason(row["reasons"]).names()),
        pending=None if row["state"] in TERMINAL else row["pending"],
        attempt=row["attempt"],
        failures=row["failures"],
        losses=row["losses"],
        deferrals=row["deferrals"],
        cause=row["cancel_cause"],
        due=bool(row["due"]),
    )


# Which states a task may be in once the event is written, and from which it may come.
_OPEN = {"blocked", "queued", "running"}
_GRAMMAR: Mapping[str, tuple[set[str], set[str]]] = {
    "created": (set(), {"blocked", "queued"}),
    "claimed": ({"queued"}, {"running"}),
    "unblocked": ({"blocked"}, {"queued"}),
    "blocked": ({"queued", "running"}, {"blocked"}),
    "completed": ({"running"}, {"completed"}),
    "failed": ({"running"}, {"failed"}),
    "heartbeat_lost": ({"running"}, {"queued"}),
    "handed_back": ({"running"}, {"queued"}),
    "canceled": (_OPEN, {"canceled"}),
    # after a failed attempt; or by a person, also when the outcome was unknown
    "retried": ({"running", "failed", "canceled", "blocked"}, {"queued", "blocked"}),
}


def flaws(taken: Taken) -> list[str]:
    """Return the violated invariants of this picture; empty when all is well."""
    return [
        *_of_tasks(taken),
        *_of_attempts(taken.picture),
        *_of_slots(taken.picture),
        *_of_stories(taken),
        *_of_runs(taken.picture),
    ]


def _of_tasks(taken: Taken) -> Iterable[str]:
    picture = taken.picture
    for key, task in picture.tasks.items():
        waits = sum(1 for (_, child), satisfied in picture.edges.items() if child == key and not satisfied)
        if (task.state == "blocked") != bool(task.reasons):
            yield f"{key} is {task.state} for {set(task.reasons)}"
        if task.pending is not None and task.pending != waits:
            yield f"{key} counts {task.pending} open dependencies, and {waits} are"
        if task.state not in TERMINAL and ("dependencies" in task.reasons) != bool(waits):
            yield f"{key} is {task.state} for {set(task.reasons)} with {waits} open dependencies"
        if key in taken.enqueued and task.state != "queued":
            yield f"a doorbell is out for {key}, which is {task.state}"
        if (task.cause is not None) != (task.state == "canceled"):
            yield f"{key} is {task.state} with the cause {task.cause}"
    if picture.project == "active":
        paused = [key for key, task in picture.tasks.items() if "paused" in task.reasons]
        if paused:
            yield f"the project goes on, and the pause still holds {paused}"


def _of_attempts(picture: Picture) -> Iterable[str]:
    numbers: dict[str, list[int]] = {}
    still_open: Counter[str] = Counter()
    for (key, number), attempt in picture.attempts.items():
        numbers.setdefault(key, []).append(number)
        still_open[key] += attempt.outcome is None
    for key, task in picture.tasks.items():
        if sorted(numbers.get(key, [])) != list(range(1, task.attempt + 1)):
            yield f"{key} is at attempt {task.attempt} and has the attempts {sorted(numbers.get(key, []))}"
            continue
        if still_open[key] > 1:
            yield f"{key} has {still_open[key]} open attempts"
        last = picture.attempts.get((key, task.attempt))
        if task.state == "running" and (last is None or last.outcome is not None):
            yield f"{key} runs, and its attempt has ended"
        completions = [n for n in numbers.get(key, []) if picture.attempts[key, n].outcome == "completed"]
        if completions != ([task.attempt] if task.state == "completed" else []):
            yield f"{key} is {task.state}, and its attempts {completions} completed"


def _of_slots(picture: Picture) -> Iterable[str]:
    used_places: Counter[str] = Counter()
    for attempt in picture.attempts.values():
        if attempt.outcome is None:
            used_places.update(attempt.slots)
    for name, (cap, used) in picture.slots.items():
        if used != used_places[name]:
            yield f"the slot {name} counts {used}, and open attempts hold {used_places[name]}"
        if used > cap:
            yield f"the slot {name} has {cap} places, and {used} are taken"


def _of_stories(taken: Taken) -> Iterable[str]:
    picture = taken.picture
    for key, task in picture.tasks.items():
        possible: set[str] = set()
        claims = 0
        for number, (kind, attempt) in enumerate(picture.stories[key]):
            if kind not in _GRAMMAR:
                continue
            before, after = _GRAMMAR[kind]
            # The end of a pause writes no event for each task: the tasks that it had blocked may be claimed next.
            possible |= {"queued"} if possible == {"blocked"} else set()
            if number and not before & possible:
                yield f"{key} went from {possible} by {kind!r}: {picture.stories[key]}"
            possible = after
            claims += kind == "claimed"
            if attempt is not None and attempt != claims:
                yield f"{key}: {kind!r} of attempt {attempt} after {claims} claims"
        if task.state not in possible | ({"queued"} if possible == {"blocked"} else set()):
            yield f"{key} is {task.state}, and its story ends in {possible}: {picture.stories[key]}"
    yield from _released_early(taken)


def _released_early(taken: Taken) -> Iterable[str]:
    """Find tasks that started before the end of a need: a good end, unless they run in any case."""
    ended: dict[str, str] = {}
    for key, kind in taken.log:
        if kind in TERMINAL:
            ended[key] = kind
        if kind == "claimed":
            for parent, child in taken.picture.edges:
                good = {"completed"} if taken.policies[key] != "run" else TERMINAL
                if child == key and ended.get(parent) not in good:
                    yield f"{key} was claimed when {parent}, which it needs, was {ended.get(parent, 'open')}"


def _of_runs(picture: Picture) -> Iterable[str]:
    for name, story in picture.stories.items():
        if name in picture.runs:
            closings = Counter(kind for kind, _ in story)
            times = closings["run_finished"] - closings["run_reopened"]
            if times != int(picture.runs[name]):
                yield f"the run {name} is {'over' if picture.runs[name] else 'open'}: {story}"
    if not picture.supervised and not all(picture.runs.values()):
        yield "a run is open and nobody supervises it"
