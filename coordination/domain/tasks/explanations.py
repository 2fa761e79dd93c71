"""Explanations why a task does not run, with the commands that a person can enter."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from coordination.domain.access.authority import delegators
from coordination.domain.tasks.next_steps import NextStep, join_steps
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import TaskRecord

DEFAULT_WORKSPACE = "default"
"""The workspace that is used unless another is named."""


@dataclass(frozen=True, slots=True)
class TaskBlocker:
    """One reason why a task does not run. ``via``: the keys of the tasks that inherit it, the nearest first.

    ``steps``: commands for a person, ending with the one that continues the task; empty if none is needed.
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
        """Return "direct" or "inherited"."""
        return "inherited" if self.via else "direct"

    def line(self) -> str:
        """Return the reason as a line for people."""
        text = "; ".join(filter(None, [self.detail, join_steps(self.steps)]))
        return f"inherited through {' -> '.join(self.via)}: {text}" if self.via else text

    def to_json(self) -> dict[str, Any]:
        """Return the form for --json."""
        more = {"via": list(self.via), "way": self.way, "steps": [step.to_json() for step in self.steps]}
        return {**asdict(self), **more}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why a whole run does not continue. ``sentence`` includes the command to enter.

    ``lasts``: it lasts until a person acts. ``keys``: some of the tasks, or the names of a project, a workspace, or a
    stop and the command that ends it. ``missing``: what all of the tasks lack.
    """

    kind: str
    tasks: int
    keys: tuple[str, ...]
    sentence: str
    lasts: bool = True
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form for --json."""
        return {name: value for name, value in asdict(self).items() if name != "missing"}


def describe_missing_worker(workspace: str, start: str = "coord worker") -> str:
    """Return the sentence that the workspace has no live worker, with the command that starts one."""
    command = start if workspace == DEFAULT_WORKSPACE else f"COORD_WORKSPACE={workspace} {start}"
    return f"no living worker runs jobs of the workspace {workspace}; start one with: {command}"


@dataclass(frozen=True, slots=True)
class TaskExplanation:
    """The explanation of one task. ``verdict``: its state and its consequence, as half a sentence.

    ``usage``: remarks on the cost reports of its latest attempt. ``steps``: commands about the task itself, ending
    with the one that continues it; blockers have their own. ``outdated``: upstream results that its latest attempt
    used and that have been produced again since.
    """

    task: TaskRecord
    verdict: str
    blockers: tuple[TaskBlocker, ...] = field(default=())
    usage: tuple[str, ...] = ()
    steps: tuple[NextStep, ...] = ()
    outdated: tuple[OutdatedTask, ...] = ()

    def lines(self) -> list[str]:
        """Return the lines for people: the verdict, then one per remark, blocker and command."""
        usage = [f"  usage: {remark}" for remark in self.usage]
        blockers = [f"  {blocker.line()}" for blocker in self.blockers]
        old = [f"  outdated: {each.sentence()}" for each in self.outdated]
        chain = [f"  delegated by {', by '.join(who)}"] if (who := delegators(self.task.options)) else []
        return [
            f"{self.task.key}: {self.verdict}",
            *chain,
            *usage,
            *blockers,
            *old,
            *(f"  {step.sentence()}" for step in self.steps),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the form for --json."""
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
            "outdated": [each.to_json() for each in self.outdated],
        }
