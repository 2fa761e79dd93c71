"""Tasks that used outdated results: an upstream task ran again after they had started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordination.domain.tasks.tasks import OPEN, TaskState


@dataclass(frozen=True, slots=True)
class OutdatedTask:
    """A task whose latest attempt used the result of ``need`` from before ``need`` ran again."""

    task_id: str
    key: str
    run_id: str
    project_id: str
    state: TaskState
    attempt: int
    need: str
    need_state: TaskState

    @property
    def can_rerun(self) -> bool:
        """Whether a newer result exists, so that the task can run again."""
        return self.need_state is TaskState.COMPLETED and self.state is TaskState.COMPLETED

    def sentence(self) -> str:
        """Return a sentence for people."""
        start = f"attempt {self.attempt} used the result of {self.need} from before"
        if self.need_state in OPEN:
            return f"{start}, and {self.need} runs again now ({self.need_state})"
        if self.need_state is TaskState.COMPLETED:
            return f"{start} it ran again"
        return f"{start}, and {self.need} is {self.need_state} now"

    def to_json(self) -> dict[str, Any]:
        """Return the form for --json."""
        return {"attempt": self.attempt, "need": self.need, "need_state": self.need_state.value}
