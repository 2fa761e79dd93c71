"""Why a task does not run, as it is told: what holds it, one line each, and what a person can enter. Pure records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from coordination.domain.access.authority import delegators
from coordination.domain.tasks.next_steps import NextStep, sentence
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import TaskRecord

DEFAULT_WORKSPACE = "default"
"""The workspace that is served where none is named."""


@dataclass(frozen=True, slots=True)
class TaskBlocker:
    """One thing that holds the task. ``via``: the keys it comes through, the nearest first; empty when direct.

    ``steps``: what a person can enter about it, the command that goes on last; empty where it goes on by itself.
    """

    kind: str
    detail: str
    key: str | None = None
    state: str | None = None
    via: tuple[str, ...] = ()
    until: datetime | None = None
    steps: tuple[NextStep, ...] = ()

    @property
    def way(self) -> str:
        """direct or inherited."""
        return "inherited" if self.via else "direct"

    def line(self) -> str:
        """For people."""
        told = "; ".join(filter(None, [self.detail, sentence(self.steps)]))
        return f"inherited through {' -> '.join(self.via)}: {told}" if self.via else told

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        more = {"via": list(self.via), "way": self.way, "steps": [step.to_json() for step in self.steps]}
        return {**asdict(self), **more}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that a whole run waits for: a sentence with the command that helps. ``lasts``: until a person acts.

    ``keys`` names some of its tasks, or what else is meant (a project, a workspace, a stop and the command that ends
    it). ``missing``: what the tasks lack, where that may be said of all of them at once.
    """

    kind: str
    tasks: int
    keys: tuple[str, ...]
    sentence: str
    lasts: bool = True
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        found = asdict(self)
        del found["missing"]
        return found


def no_worker(workspace: str, start: str = "coord worker") -> str:
    """Return the sentence that nobody runs jobs of the workspace, with the command that starts somebody."""
    named = start if workspace == DEFAULT_WORKSPACE else f"COORD_WORKSPACE={workspace} {start}"
    return f"no living worker runs jobs of the workspace {workspace}; start one with: {named}"


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """The whole answer for one task. ``verdict``: its state and what follows from it, as half a sentence.

    ``usage``: what is odd in what its latest attempt has reported of its costs. ``steps``: what a person can enter
    next about the task itself, the command that goes on last; what holds it has steps of its own. ``outdated``: what
    its latest attempt was given and that was made again since.
    """

    task: TaskRecord
    verdict: str
    blockers: tuple[TaskBlocker, ...] = field(default=())
    usage: tuple[str, ...] = ()
    steps: tuple[NextStep, ...] = ()
    outdated: tuple[OutdatedTask, ...] = ()

    def lines(self) -> list[str]:
        """For people: the verdict, then one line per remark, per blocker and per command."""
        usage = [f"  usage: {remark}" for remark in self.usage]
        held = [f"  {blocker.line()}" for blocker in self.blockers]
        old = [f"  outdated: {one.sentence()}" for one in self.outdated]
        chain = [f"  delegated by {', by '.join(who)}"] if (who := delegators(self.task.options)) else []
        return [
            f"{self.task.key}: {self.verdict}",
            *chain,
            *usage,
            *held,
            *old,
            *(f"  {step.sentence()}" for step in self.steps),
        ]

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        return {
            "id": self.task.id,
            "key": self.task.key,
            "run": self.task.run_id,
            "state": self.task.state.value,
            "reasons": self.task.reasons.names(),
            "verdict": self.verdict,
            "delegated_by": delegators(self.task.options),
            "blockers": [blocker.to_json() for blocker in self.blockers],
            "usage": list(self.usage),
            "steps": [step.to_json() for step in self.steps],
            "outdated": [one.to_json() for one in self.outdated],
        }
