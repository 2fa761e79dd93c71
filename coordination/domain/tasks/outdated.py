"""Tasks that were given what is out of date: what they need was done again after they had begun. Pure records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordination.domain.tasks.tasks import OPEN, TaskState


@dataclass(frozen=True, slots=True)
class OutdatedTask:
    """One need of a task whose *attempt*, its latest, was given what that had made before it was done again."""

    task_id: str
    key: str
    run_id: str
    project_id: str
    state: TaskState
    attempt: int
    need: str
    need_state: TaskState

    @property
    def again(self) -> bool:
        """Whether there is something newer to begin with."""
        return self.need_state is TaskState.COMPLETED and self.state is TaskState.COMPLETED

    def sentence(self) -> str:
        """For people."""
        given = f"attempt {self.attempt} was given what {self.need} had made before"
        if self.need_state in OPEN:
            return f"{given}, and {self.need} is done again now ({self.need_state})"
        if self.need_state is TaskState.COMPLETED:
            return f"{given} it was done again"
        return f"{given}, and {self.need} is {self.need_state} now"

    def to_json(self) -> dict[str, Any]:
        """As printed by --json."""
        return {"attempt": self.attempt, "need": self.need, "need_state": self.need_state.value}
