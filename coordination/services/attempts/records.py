"""What is known of an attempt's end, and what came of writing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.retry import Decision
from coordination.store.queries.tasks.completions import ReleasedTask


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended and what follows; all of one project."""

    task_id: str
    attempt: int
    run_id: str
    key: str
    outcome: Outcome
    decision: Decision
    actor: str | None = None
    output: Any = None
    exit_code: int | None = None
    error: str | None = None
    log: str | None = None
    losses: int | None = None  # of the task, when this one was lost; None: as before
    slots: tuple[str, ...] = ()
    carried: Mapping[str, Any] | None = None
    question: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    budgeted: bool = False  # something may be reserved for it
    began: bool = True  # its job was really started
    details: dict[str, Any] = field(default_factory=dict)  # what is kept of it besides
    known_wait: bool = False  # its task waits for a moment that somebody named

    @property
    def fence(self) -> tuple[str, int]:
        """What it must quote: task and attempt."""
        return self.task_id, self.attempt


@dataclass(slots=True)
class Ended:
    """What an ending did: which fences still held, what became ready, which runs closed or may close now."""

    held: set[str] = field(default_factory=set)
    fences: set[tuple[str, int]] = field(default_factory=set)  # the same with the attempts: an old one may report too
    recorded_before: set[str] = field(default_factory=set)
    freed: list[str] = field(default_factory=list)
    released: list[ReleasedTask] = field(default_factory=list)  # by completions, best first
    closed_runs: list[str] = field(default_factory=list)
    runs_going_on: set[str] = field(default_factory=set)
    maybe_done_runs: set[str] = field(default_factory=set)
    ended_in: set[str] = field(default_factory=set)
    closing: set[tuple[str, int]] = field(default_factory=set)  # attempts of which something may be reserved
