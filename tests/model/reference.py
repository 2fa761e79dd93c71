"""The expected content of the store after each step, in dictionaries and loops: no database, no code of the product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.model.picture import TERMINAL, AttemptRow, Picture, Story, TaskRow

MAX_LOSSES = 3


@dataclass(slots=True)
class RefTask:
    """One task: its fields in the plan, and its state."""

    key: str
    run: str
    order: int
    needs: tuple[str, ...]
    policy: str
    max_attempts: int = 1
    repeatable: bool = True
    priority: int = 0
    limits: tuple[str, ...] = ("project",)
    waits: str | None = None  # until a moment in the "future", or in the "past"
    state: str = "queued"
    reasons: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    outdated: dict[str, int] = field(
        default_factory=dict
    )  # by need: the attempt that had begun with the result that is repeated
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    deferrals: int = 0
    cause: str | None = None

    @property
    def is_open(self) -> bool:
        """Return whether its state can still change."""
        return self.state not in TERMINAL


@dataclass(slots=True)
class RefAttempt:
    """One execution: its places in limits, its owner, and how it ended."""

    worker: str
    slots: tuple[str, ...]
    outcome: str | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's report on one of its attempts."""

    key: str
    number: int
    outcome: str
    retryable: bool = True
    began: bool = True
    cost: str | None = None  # the id of its cost record


class Reference:
    """One project: its tasks, attempts, places, runs, events and costs."""

    def __init__(self) -> None:
        self.tasks: dict[str, RefTask] = {}
        self.attempts: dict[tuple[str, int], RefAttempt] = {}
        self.caps: dict[str, int] = {}
        self.runs: dict[str, bool] = {}
        self.stories: dict[str, Story] = {}
        self.costs: dict[str, tuple[str, int, bool]] = {}
        self.on_hold = False
        self.supervised = False

    def submit(self, run: str, tasks: Iterable[RefTask], caps: Mapping[str, int], assigned: Iterable[str]) -> None:
        """Store a plan, and queue the tasks that wait for nothing."""
        self.runs[run] = False
        self._tell(run, "run_submitted")
        self.caps |= caps
        self.supervised = True
        for task in tasks:
            self.tasks[task.key] = task
            task.open = set(task.needs)
            task.reasons = {"dependencies"} if task.open else set()
            task.reasons |= {"not_before"} if task.waits == "future" else set()
            task.state = "blocked" if task.reasons else "queued"
            self._tell(task.key, "created")
        for key in assigned:
            self._tell(key, "assigned")

    def claim(self, keys: Sequence[str], worker: str) -> list[str]:
        """Claim the tasks of a worker's messages; return the claimed ones, best first."""
        ready = [task for key in keys if (task := self.tasks[key]).state == "queued" and task.waits != "future"]
        ready = [task for task in ready if not self._open_attempts(task.key)]
        ready.sort(key=lambda task: (-task.priority, task.order))
        got = []
        for task in ready:
            if self.on_hold:
                task.state, task.reasons = "blocked", {"paused"}
                self._tell(task.key, "blocked")
                continue
            wanted = tuple(sorted(name for name in task.limits if name in self.caps))
            if any(self.used(name) >= self.caps[name] for name in wanted):
                continue
            task.state, task.waits = "running", None
            task.attempt += 1
            self.attempts[task.key, task.attempt] = RefAttempt(worker, wanted)
            self._tell(task.key, "claimed", task.attempt)
            got.append(task.key)
        return got

    def finish(self, reports: Sequence[Report]) -> None:
        """End attempts in one transaction; an attempt that no longer owns its task only adds its costs."""
        holders = [report for report in reports if self._holds(report.key, report.number)]
        for report in reports:
            before = self.attempts[report.key, report.number].outcome
            if report.cost is not None:
                # Not its own commit whose answer was lost; others write as well that an attempt is lost.
                stale = report not in holders and (before != report.outcome or report.outcome == "lost")
                self.costs[report.cost] = (report.key, report.number, stale)
            if report not in holders and before is None:  # the task was canceled; the job has ended now
                late = report.outcome in ("completed", "failed", "timed_out", "deferred")
                self.attempts[report.key, report.number].outcome = "canceled" if late else report.outcome
        for report in holders:
            self._end(report)
        self._wait_again([(report.key, report.number) for report in holders])
        self._settle([report.key for report in holders])

    def cancel(self, keys: Iterable[str]) -> None:
        """Cancel a task as a person; a running attempt stays open until its worker has ended the job."""
        hit = [key for key in keys if self.tasks[key].is_open]
        for key in hit:
            self._cancel(key, "person")
        self._settle(hit)

    def cancel_run(self, run: str) -> None:
        """Cancel a run as a person."""
        self.cancel([task.key for task in self.tasks.values() if task.run == run])

    def may_retry(self, key: str) -> bool:
        """Return whether a person may retry this task now."""
        task = self.tasks[key]
        return task.state in ("failed", "canceled") or "outcome_unknown" in task.reasons

    def retry(self, key: str) -> list[str]:
        """Retry a task as a person, and all tasks that were canceled only because of it."""
        if "outcome_unknown" in self.tasks[key].reasons:
            self.tasks[key].state, self.tasks[key].reasons = "queued", set()
            reopened = [key]
        else:
            reopened = []
            wave = [key]
            while wave:
                for each in wave:
                    self._reopen(self.tasks[each])
                reopened += wave
                wave = [
                    child.key for child in self.tasks.values() if child.cause == "dependency" and child.open & set(wave)
                ]
            for each in reopened:
                for child in self._released_by(each):
                    if child.state in ("running", "completed"):
                        child.outdated[each] = child.attempt
                    else:
                        self._hold_again(each, child)
        run = self.tasks[key].run
        self.supervised = True
        if self.runs[run]:
            self.runs[run] = False
            self._tell(run, "run_reopened")
        for each in reopened:
            self._tell(each, "retried")
        return reopened

    def retry_run(self, run: str) -> list[str]:
        """Retry all tasks of a run that ended without success, as a person."""
        ended = [task.key for task in self.tasks.values() if task.run == run and task.state in ("failed", "canceled")]
        reopened: list[str] = []
        for key in ended:
            if key not in reopened:
                reopened += self.retry(key)
        return reopened

    def resume(self) -> None:
        """Resume the project."""
        self.on_hold = False
        for task in self.tasks.values():
            if "paused" in task.reasons:
                task.reasons.discard("paused")
                task.state = "blocked" if task.reasons else "queued"
                if task.state == "queued":
                    self._tell(task.key, "unblocked")

    def lose(self, lost: Sequence[tuple[str, int]], *, suspect: bool = False, alone: bool = False) -> None:
        """Give up these open attempts, whose workers are lost."""
        open_fences = [fence for fence in lost if self._holds(*fence)]
        for fence in lost:
            if fence not in open_fences:
                self.attempts[fence].outcome = "canceled"
        for key, number in open_fences:
            losses = self.tasks[key].losses
            self.tasks[key].losses = losses + 1 if alone else max(losses, int(suspect))
            self._end(Report(key, number, "lost"))
        self._wait_again(open_fences)
        self._settle([key for key, _ in open_fences])

    def tick(self) -> bool:
        """Tick the supervisor once; return whether there is one."""
        if not self.supervised:
            return False
        self.lose([fence for fence, attempt in self.attempts.items() if attempt.expired and attempt.outcome is None])
        for task in self.tasks.values():
            if task.state == "blocked" and "not_before" in task.reasons and task.waits == "past":
                task.reasons.discard("not_before")
                if not task.reasons:
                    task.state = "queued"
                    self._tell(task.key, "unblocked")
        if all(self.runs.values()) and not any(attempt.outcome is None for attempt in self.attempts.values()):
            self.supervised = False
        return True

    def used(self, name: str) -> int:
        """Return how many places of a slot are used."""
        return sum(name in attempt.slots for attempt in self.attempts.values() if attempt.outcome is None)

    def picture(self) -> Picture:
        """Return the picture that the store should show."""
        return Picture(
            project="on_hold" if self.on_hold else "active",
            tasks={
                task.key: TaskRow(
                    state=task.state,
                    reasons=frozenset(task.reasons),
                    pending=len(task.open) if task.is_open else None,
                    attempt=task.attempt,
                    failures=task.failures,
                    losses=task.losses,
                    deferrals=task.deferrals,
                    cause=task.cause,
                    due=task.waits != "future",
                )
                for task in self.tasks.values()
            },
            attempts={fence: AttemptRow(attempt.outcome, attempt.slots) for fence, attempt in self.attempts.items()},
            edges={
                (parent, task.key): parent not in task.open for task in self.tasks.values() for parent in task.needs
            },
            slots={name: (cap, self.used(name)) for name, cap in self.caps.items()},
            runs=dict(self.runs),
            stories=dict(self.stories),
            costs=dict(self.costs),
            supervised=self.supervised,
        )

    def _holds(self, key: str, number: int) -> bool:
        return self.tasks[key].state == "running" and self.tasks[key].attempt == number

    def _open_attempts(self, key: str) -> bool:
        return any(fence[0] == key and attempt.outcome is None for fence, attempt in self.attempts.items())

    def _tell(self, whose: str, kind: str, attempt: int | None = None) -> None:
        self.stories[whose] = (*self.stories.get(whose, ()), (kind, attempt))

    def _end(self, report: Report) -> None:
        """End the attempt that owns the task, and move the task."""
        task = self.tasks[report.key]
        self.attempts[report.key, report.number].outcome = report.outcome
        task.failures += report.outcome in ("failed", "timed_out")
        task.losses *= report.outcome in ("lost", "handed_back", "completed", "canceled")
        task.deferrals += report.outcome == "deferred"
        if report.outcome in ("failed", "timed_out"):
            task.deferrals = 0
        failed = report.outcome in ("failed", "timed_out")
        for_good = failed and (not report.retryable or task.failures >= task.max_attempts)
        in_the_middle = report.outcome in ("handed_back", "timed_out") and report.began and not for_good
        unknown = report.outcome == "lost" or in_the_middle
        if report.outcome == "completed":
            task.state = kind = "completed"
        elif unknown and not task.repeatable:
            task.state = kind = "blocked"
            task.reasons = {"outcome_unknown"}
        elif for_good or (report.outcome == "lost" and task.losses > MAX_LOSSES):
            task.state = kind = "failed"
        else:
            task.state = "queued"
            # After a failure, and when the job asked for a later start, some time has to pass.
            task.waits = "future" if report.outcome in ("failed", "timed_out", "deferred") else None
            kinds = {"lost": "heartbeat_lost", "handed_back": "handed_back", "canceled": "handed_back"}
            kind = kinds.get(report.outcome, "retried")
        self._tell(report.key, kind, report.number)

    def _cancel(self, key: str, cause: str) -> None:
        task = self.tasks[key]
        task.state, task.reasons, task.cause = "canceled", set(), cause
        self._tell(key, "canceled")

    def _reopen(self, task: RefTask) -> None:
        task.reasons = {"dependencies"} if task.open else set()
        task.state = "blocked" if task.reasons else "queued"
        task.failures = task.losses = task.deferrals = 0
        task.waits = task.cause = None

    def _settle(self, ended: Iterable[str]) -> None:  # noqa: C901 - three short loops
        """Apply ends to the dependants, good ends first; then close runs with nothing open."""
        dead = []
        for key in ended:
            if self.tasks[key].state == "completed":
                for child in self._waiting_for(key):
                    self._satisfy(key, child)
            elif not self.tasks[key].is_open:
                dead.append(key)
        while dead:
            fallen = []
            for key in dead:
                for child in self._waiting_for(key):
                    if child.policy == "run":
                        self._satisfy(key, child)
                    elif child.policy == "cancel" and child.is_open:
                        self._cancel(child.key, "dependency")
                        fallen.append(child.key)
            dead = fallen
        for run, over in self.runs.items():
            if not over and not any(task.is_open for task in self.tasks.values() if task.run == run):
                self.runs[run] = True
                self._tell(run, "run_finished")

    def _wait_again(self, ended: Iterable[tuple[str, int]]) -> None:
        """Let tasks that did not complete wait for a need that is repeated."""
        for key, number in ended:
            child = self.tasks[key]
            if child.state != "completed":
                for need in child.needs:
                    if need not in child.open and child.outdated.get(need) == number and self.tasks[need].is_open:
                        self._hold_again(need, child)

    def _hold_again(self, key: str, child: RefTask) -> None:
        child.open.add(key)
        if child.is_open:
            if child.state == "queued":
                self._tell(child.key, "blocked")
            child.state = "blocked"
            child.reasons.add("dependencies")

    def _released_by(self, key: str) -> list[RefTask]:
        return [task for task in self.tasks.values() if key in task.needs and key not in task.open]

    def _waiting_for(self, key: str) -> list[RefTask]:
        return [task for task in self.tasks.values() if key in task.open]

    def _satisfy(self, key: str, child: RefTask) -> None:
        child.open.discard(key)
        if child.state == "blocked" and not child.open:
            child.reasons.discard("dependencies")
            if not child.reasons:
                child.state = "queued"
                self._tell(child.key, "unblocked")
