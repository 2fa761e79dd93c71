"""Claim, renew, complete and rescue as a small state machine, and a search of everything that can happen in it.

This shares no code with the product: it is the argument why the product's protocol is safe, in a form that a machine
can check. Workers, each with room for one job, claim tasks in one database over a network that delays without limit;
one worker may crash and start again, one may be cut off for a while and lose its calls in transit.

These rules keep the number of states small, and exclude no behaviour:

- Time is in ticks. The database counts the remaining ticks of each lease. A worker counts the ticks since it *sent* the
  last renewal (or the claim) that it knows to have succeeded. All clocks run at the same speed; none is compared with
  another, so their readings do not appear. A worker ends its job before that age passes ``fence_after``: no tick
  happens while a job is due to be ended.
- An attempt's number only matters by whether it is still its task's latest. A new claim makes all older ones stale,
  for ever; so a flag replaces the number, and there is no bound on the attempts.
- Workers are interchangeable, and so are tasks: states that differ only in their names count as one.
- A worker that is dead, or cut off without a job, does what an idle one may do as well: nothing. So a crash leaves an
  idle worker (it started again, or never will), and the calls that it left in the network.
- A completion is in transit as long as its worker has not got an answer, and arrives at any time or never.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, permutations
from typing import NamedTuple

QUEUED, RUNNING, DONE = "queued", "running", "done"
IDLE, ASKED, GRANTED, WORKS, FINISHED = "idle", "asked", "granted", "works", "finished"


class Task(NamedTuple):
    """A task in the database. ``lease``: ticks left; ``orphan``: its worker is known to be dead."""

    state: str = QUEUED
    lease: int = 0
    orphan: bool = False
    completions: int = 0


class Worker(NamedTuple):
    """A worker and the one job that it claims, runs or has run.

    ``age``: ticks since the claim or the last renewal known to have succeeded was sent. ``current``: its attempt is
    the latest of its task (what only the database knows). ``call``: the renewal in transit beside the job: none,
    "sent", or the database's answer "yes"; ``sent``: ticks since it was sent. ``cut``: nothing goes in or out.
    """

    phase: str = IDLE
    task: int = -1
    age: int = 0
    current: bool = False
    call: str = ""
    sent: int = 0
    cut: bool = False


class State(NamedTuple):
    """Everything: database, workers, calls of dead workers in transit (kind, task, current), and possible faults."""

    tasks: tuple[Task, ...]
    workers: tuple[Worker, ...]
    ghosts: tuple[tuple[str, int, bool], ...] = ()
    crashes: int = 1
    cuts: int = 1


class Step(NamedTuple):
    """One transition: a sentence with placeholders for worker and task, their numbers, and the state after it."""

    sentence: str
    worker: int
    task: int
    after: State
    stale: bool = False  # it was the completion of an attempt that does not own its task

    def told(self) -> str:
        """Return the sentence with its placeholders filled in."""
        return self.sentence.format(w=f"worker {self.worker + 1}", t=f"task {'AB'[self.task]}")


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's numbers, and each of its safeguards: a test turns one off."""

    workers: int = 3
    tasks: int = 2
    ttl: int = 2
    fence_after: int = 1
    completion_is_fenced: bool = True  # by the attempt's number
    completion_is_guarded: bool = True  # by the task's state
    claim_is_guarded: bool = True
    worker_ends_its_job_in_time: bool = True
    lease_by_the_databases_clock: bool = True
    age_counts_from_sending: bool = True
    late_claim_is_not_started: bool = True
    expired_is_rescued: bool = True
    crashes: int = 1
    cuts: int = 1


def steps(rules: Rules, state: State) -> Iterator[Step]:  # noqa: C901 - one list of all that can happen
    """Yield all possible next steps."""
    for place, worker in enumerate(state.workers):
        if worker.phase == IDLE:
            # Messages are lost, late and repeated, so a worker may receive a task's message at any time. A refused
            # claim changes nothing, so only a claim that could succeed when it was sent is followed.
            for number, task in enumerate(state.tasks):
                if task.state == QUEUED or not rules.claim_is_guarded:
                    claiming = Worker(ASKED, number)
                    yield Step("{w} hears of {t} and asks for it", place, number, _with(state, place, claiming))
            continue
        yield from _of_worker(rules, state, place, worker)
        yield from _accidents(state, place, worker)
    yield from _ghosts(rules, state)
    for number, task in enumerate(state.tasks):
        if task.state == RUNNING:
            after = _with_task(state, number, Task(completions=task.completions))
            if task.orphan:
                yield Step("{t} is queued again: its worker is known to be dead", -1, number, after)
            elif rules.expired_is_rescued and (task.lease <= 0 or not rules.lease_by_the_databases_clock):
                yield Step("{t} is queued again: its lease is held to have run out", -1, number, after)
    if not any(w.phase == WORKS and w.age >= rules.fence_after for w in state.workers) or (
        not rules.worker_ends_its_job_in_time
    ):
        after = _tick(rules, state)
        if after != state:
            yield Step("a tick passes", -1, -1, after)


def _of_worker(  # noqa: C901, PLR0912 - one list, by phase
    rules: Rules, state: State, place: int, worker: Worker
) -> Iterator[Step]:
    number = worker.task
    task = state.tasks[number]

    def step(sentence: str, changed: Worker, database: Task = task, *, stale: bool = False) -> Step:
        after = _with(state, place, changed)
        return Step(sentence, place, number, after if database is task else _with_task(after, number, database), stale)

    if worker.phase == WORKS:
        yield step("the job of {t} ends at {w}", Worker(FINISHED, number, 0, worker.current, cut=worker.cut))
        if worker.age >= rules.fence_after and rules.worker_ends_its_job_in_time:
            yield step("{w} could not renew in time, and ends the job of {t} itself", Worker())
    if worker.cut:
        return
    holds = worker.current and task.state == RUNNING
    if worker.phase == ASKED:
        if task.state == QUEUED or not rules.claim_is_guarded:
            granted = Worker(GRANTED, number, worker.age, current=True)
            claimed = Task(RUNNING, rules.ttl, completions=task.completions)
            before = _outdated(state, number)
            after = _with_task(_with(before, place, granted), number, claimed)
            yield Step("the claim of {w} is committed: a new attempt of {t}", place, number, after)
        else:
            yield step("{w} hears that {t} is not to be had", Worker())
    elif worker.phase == GRANTED:
        if worker.age >= rules.fence_after and rules.late_claim_is_not_started:
            yield step("{w} hears too late that it got {t}, and does not start", Worker())
        else:
            yield step("{w} starts the job of {t}", worker._replace(phase=WORKS))
    elif worker.phase == WORKS:
        if not worker.call:
            yield step("{w} sends a renewal for {t}", worker._replace(call="sent", sent=0))
        elif worker.call == "yes":
            age = worker.sent if rules.age_counts_from_sending else 0
            yield step("{w} hears that its lease on {t} is renewed", Worker(WORKS, number, age, worker.current))
        elif holds:
            renewed = task._replace(lease=rules.ttl)
            yield step("the renewal of {w} for {t} is committed", worker._replace(call="yes"), renewed)
        else:  # a later answer is the same as a renewal that arrives later
            yield step("the renewal of {w} finds {t} taken away: {w} ends its job", Worker())
    else:
        done, word = _completed(rules, task, current=worker.current)
        yield step(f"the completion of {{w}} for {{t}} {word}", Worker(), done, stale=not holds)
        if state.cuts:
            lost = step(
                f"the completion of {{w}} for {{t}} {word}, but {{w}} is cut off before it hears of it",
                worker._replace(cut=True),
                done,
                stale=not holds,
            )
            yield lost._replace(after=lost.after._replace(cuts=state.cuts - 1))


def _completed(rules: Rules, task: Task, *, current: bool) -> tuple[Task, str]:
    """Run the guarded statement: no row unless the task runs and the attempt is its latest."""
    if (rules.completion_is_guarded and task.state != RUNNING) or (rules.completion_is_fenced and not current):
        return task, "is refused"
    return Task(DONE, completions=min(task.completions + 1, 2)), "is committed"


def _accidents(state: State, place: int, worker: Worker) -> Iterator[Step]:
    """Yield a crash, a cut, the loss of calls in transit, and the connection's return."""
    number = worker.task
    if state.crashes:
        after = _with(state, place, Worker())._replace(crashes=state.crashes - 1)
        task = state.tasks[number]
        if worker.current and task.state == RUNNING:
            after = _with_task(after, number, task._replace(orphan=True))
        yield Step("{w} crashes with its job, and starts again", place, number, after)
        call = {ASKED: "claim", FINISHED: "completion"}.get(worker.phase, "renewal" if worker.call == "sent" else "")
        if call and not worker.cut:
            ghosts = tuple(sorted((*state.ghosts, (call, number, worker.current))))
            sentence = f"{{w}} crashes, and starts again; a {call} for {{t}} is still under way"
            yield Step(sentence, place, number, after._replace(ghosts=ghosts))
    if worker.cut:
        yield Step("{w} is connected again", place, number, _with(state, place, worker._replace(cut=False)))
    elif state.cuts:
        kept = Worker() if worker.phase == ASKED else worker._replace(cut=True, call="", sent=0)
        after = _with(state, place, kept)._replace(cuts=state.cuts - 1)
        yield Step("{w} is cut off, and what was under way for {t} is lost", place, number, after)
        if worker.call:
            after = _with(state, place, worker._replace(cut=True))._replace(cuts=state.cuts - 1)
            yield Step("{w} is cut off, and what was under way for {t} is delayed", place, number, after)
        if worker.phase == GRANTED:
            after = _with(state, place, Worker())._replace(cuts=state.cuts - 1)
            yield Step("{w} is cut off, and never hears that it got {t}", place, number, after)


def _ghosts(rules: Rules, state: State) -> Iterator[Step]:
    for place, (kind, number, current) in enumerate(state.ghosts):
        rest = state._replace(ghosts=state.ghosts[:place] + state.ghosts[place + 1 :])
        task = state.tasks[number]
        holds = current and task.state == RUNNING
        if kind == "claim" and task.state == QUEUED:
            claimed = Task(RUNNING, rules.ttl, completions=task.completions)
            after = _with_task(_outdated(rest, number), number, claimed)
            yield Step("a dead worker's claim is committed late: a new attempt of {t}", -1, number, after)
        elif kind == "renewal" and holds:
            after = _with_task(rest, number, task._replace(lease=rules.ttl))
            yield Step("a dead worker's renewal for {t} is committed late", -1, number, after)
        elif kind == "completion":
            done, word = _completed(rules, task, current=current)
            after = _with_task(rest, number, done)
            yield Step(f"a dead worker's completion of {{t}} {word}", -1, number, after, not holds)
        else:
            yield Step("a dead worker's call for {t} comes to nothing", -1, number, rest)


def _tick(rules: Rules, state: State) -> State:
    """Let time pass for all; all ages beyond the fence are the same."""
    most = rules.fence_after
    return state._replace(
        tasks=tuple(task._replace(lease=task.lease - 1) if task.lease else task for task in state.tasks),
        workers=tuple(_older(worker, most) for worker in state.workers),
    )


@cache
def _older(worker: Worker, most: int) -> Worker:
    if worker.phase not in (ASKED, GRANTED, WORKS):
        return worker
    sent = min(worker.sent + 1, most) if worker.call else 0
    return worker._replace(age=min(worker.age + 1, most), sent=sent)


def _with(state: State, place: int, worker: Worker) -> State:
    if worker.phase == IDLE:
        worker = Worker()
    workers = (*state.workers[:place], worker, *state.workers[place + 1 :])
    return State(state.tasks, workers, state.ghosts, state.crashes, state.cuts)


def _with_task(state: State, number: int, task: Task) -> State:
    tasks = (*state.tasks[:number], task, *state.tasks[number + 1 :])
    return State(tasks, state.workers, state.ghosts, state.crashes, state.cuts)


def _outdated(state: State, number: int) -> State:
    """Commit a claim: all older attempts of the task are stale from now on."""
    return state._replace(
        workers=tuple(w._replace(current=False) if w.task == number and w.current else w for w in state.workers),
        ghosts=tuple(sorted((kind, t, current and t != number) for kind, t, current in state.ghosts)),
    )


@cache
def _renamed(worker: Worker, order: tuple[int, ...]) -> Worker:
    return worker if worker.task < 0 else worker._replace(task=order.index(worker.task))


def canonical(state: State) -> State:
    """Return one state for all that differ only in the names of workers and tasks."""
    return min(
        [
            State(
                tuple([state.tasks[old] for old in order]),
                tuple(sorted([_renamed(worker, order) for worker in state.workers])),
                tuple(sorted([(kind, order.index(t), current) for kind, t, current in state.ghosts])),
                state.crashes,
                state.cuts,
            )
            for order in _orders(state.tasks)
        ]
    )


@cache
def _orders(tasks: tuple[Task, ...]) -> list[tuple[int, ...]]:
    """Return the orders in which these tasks are sorted: several, when some are alike."""
    return [o for o in permutations(range(len(tasks))) if all(tasks[a] <= tasks[b] for a, b in pairwise(o))]


def wrong_with(before: State, step: Step) -> str | None:
    """Return the safety violation of this step, or None."""
    if step.task < 0:
        return None
    old, new = before.tasks[step.task], step.after.tasks[step.task]
    jobs = sum(worker.phase == WORKS and worker.task == step.task for worker in step.after.workers)
    if jobs > 1:
        return f"{jobs} workers run the job of one task at once"
    if new.completions > 1:
        return "a task is completed twice"
    if old.state == DONE and new.state != DONE:
        return "a task was done, and is not any more"
    if step.stale and new != old:
        return "an attempt that did not hold its task any more completed it"
    return None


@dataclass(slots=True)
class Found:
    """The result of a search: numbers of states and steps, the violation with its path, the number of stuck states."""

    states: int = 0
    transitions: int = 0
    wrong: str | None = None
    trace: list[str] = field(default_factory=list)
    stuck: int = 0

    def told(self) -> str:
        """Return the counterexample as text."""
        return "\n".join([*(f"{number:3}. {line}" for number, line in enumerate(self.trace, 1)), f"  => {self.wrong}"])


def search(rules: Rules) -> Found:
    """Search all steps breadth first, and stop at the first violation, with a shortest path."""
    gc.disable()  # millions of tuples without cycles: collecting garbage among them takes longer than the search
    try:
        return _search(rules)
    finally:
        gc.enable()


def _search(rules: Rules) -> Found:
    result = Found()
    start = State((Task(),) * rules.tasks, (Worker(),) * rules.workers, (), rules.crashes, rules.cuts)
    numbers = {start: 0}
    states, came, into = [start], [-1], [[0]]
    for at, state in enumerate(states):  # grows meanwhile
        for step in steps(rules, state):
            result.transitions += 1
            result.wrong = wrong_with(state, step)
            if result.wrong is not None:
                result.states = len(states)
                result.trace = _retold(rules, [*_way_to(at, states, came), canonical(step.after)])
                return result
            after = canonical(step.after)
            number = numbers.get(after)
            if number is None:
                number = numbers[after] = len(states)
                states.append(after)
                came.append(at)
                into.append([])
            into[number].append(at)
    result.states, result.stuck = len(states), _stuck(states, into)
    return result


def _way_to(at: int, states: list[State], came: list[int]) -> list[State]:
    way = [states[at]]
    while came[at] >= 0:
        at = came[at]
        way.append(states[at])
    return way[::-1]


def _retold(rules: Rules, way: list[State]) -> list[str]:
    """Return the same path with stable names of workers and tasks."""
    state, lines = way[0], []
    for wanted in way[1:]:
        step = next(step for step in steps(rules, state) if canonical(step.after) == wanted)
        lines.append(step.told())
        state = step.after
    return lines


def _stuck(states: list[State], into: list[list[int]]) -> int:
    """Return from how many states no path leads to the end of all tasks."""
    good = [all(task.state == DONE for task in state.tasks) for state in states]
    open_ = [number for number, is_good in enumerate(good) if is_good]
    while open_:
        for before in into[open_.pop()]:
            if not good[before]:
                good[before] = True
                open_.append(before)
    return good.count(False)
