"""A task of the Python API: its state, attempts and output; cancel, retry, force, assign it, answer its question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from coordination.api.checkouts import TaskCheckout, checkout_of
from coordination.api.explanations import explain_tasks
from coordination.api.output import read_output
from coordination.api.questions import answer, prompt_of
from coordination.base.errors import NotFound
from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.last_lines import LastLines, last_lines
from coordination.domain.jobs.output import OutputChunk
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.attempts import Attempt
from coordination.domain.tasks.events import Event
from coordination.domain.tasks.explanations import TaskExplanation
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.questions import Question
from coordination.domain.tasks.tasks import TaskRecord as TaskRecord
from coordination.domain.tasks.tasks import TaskState, parse_state
from coordination.flows.tasks.assign_task import Assignment, assign_task
from coordination.flows.tasks.cancel_work import cancel_task
from coordination.flows.tasks.change_priority import change_priority
from coordination.flows.tasks.create_task import create_task
from coordination.flows.tasks.force_tasks import ForceResult, force_task
from coordination.flows.tasks.retry_tasks import retry_task
from coordination.runtime import Runtime
from coordination.store.queries.jobs import artifacts
from coordination.store.queries.money import costs
from coordination.store.queries.tasks import attempts, events, outdated, questions, tasks


def add_to_run(runtime: Runtime, run_id: str, task: Task) -> None:
    """Add *task* to an existing run and notify a worker. Raises NotFound, PlanError or Refused with nothing stored."""
    lifetime = runtime.settings.supervisor_lifetime
    created = runtime.transact(create_task, run_id, task, actor=runtime.actor, lifetime=lifetime)
    runtime.wake_project(created.project_id)


@dataclass(frozen=True, slots=True)
class TaskHandle:
    """A handle of a task with a snapshot of its record; ``refresh()`` returns a new one."""

    runtime: Runtime = field(repr=False)  # its settings include passwords
    record: TaskRecord

    @property
    def id(self) -> str:
        """Return the task's id."""
        return self.record.id

    @property
    def key(self) -> str:
        """Return the task's key in its plan."""
        return self.record.key

    @property
    def state(self) -> TaskState:
        """Return blocked, queued, running, completed, failed or canceled."""
        return self.record.state

    @property
    def error(self) -> str | None:
        """Return why its last attempt, or the task itself, did not succeed."""
        return self.record.error

    @property
    def output(self) -> Any:
        """Return its output when completed: stdout of a shell job, the return value of a Python job; else None."""
        if self.record.state is not TaskState.COMPLETED:
            return None
        attempts_so_far = self.attempts()
        return attempts_so_far[-1].output if attempts_so_far else None

    @property
    def cost(self) -> Decimal:
        """Return the US dollars of all its attempts, for calls with a known price."""
        return self.runtime.read(costs.total, task_id=self.id)[0]

    def refresh(self) -> TaskHandle:
        """Return the task as it is now."""
        record = self.runtime.read(tasks.get, self.id)
        if record is None:
            raise NotFound(f"There is no task {self.id}")
        return replace(self, record=record)

    def attempts(self) -> list[Attempt]:
        """Return all attempts, oldest first."""
        return self.runtime.read(attempts.of_task, self.id)

    def events(self) -> list[Event]:
        """Return the task's events so far."""
        return self.runtime.read(events.tail, task_id=self.id, limit=10_000)

    def cancel(self, why: str = "canceled by its owner") -> bool:
        """Cancel the task, and its dependents as the plan says; return whether it was open."""
        runtime = self.runtime
        canceled = runtime.transact(cancel_task, self.id, actor=runtime.actor, why=why)
        runtime.stop(canceled.project_id, canceled.tasks)
        return bool(canceled.tasks)

    def retry(self) -> None:
        """Retry a failed or canceled task, and tasks canceled because of it. Raises IllegalMove for others."""
        runtime = self.runtime
        runtime.transact(retry_task, self.id, actor=runtime.actor, lifetime=runtime.settings.supervisor_lifetime)
        runtime.wake_project(self.record.project_id)

    def force(self, state: TaskState | str, *, reason: str, output: Any = None) -> ForceResult:
        """Force the task into a state: queued, completed (with this *output*), failed or canceled.

        A running attempt is fenced and stopped; *reason* is stored in the task's events. Raises Refused or
        IllegalMove with nothing changed.
        """
        runtime = self.runtime
        forced = runtime.transact(
            force_task,
            self.id,
            parse_state(state),
            actor=runtime.actor,
            reason=reason,
            output=output,
            lifetime=runtime.settings.supervisor_lifetime,
        )
        runtime.stop(forced.project_id, forced.fenced)
        return forced

    def assign(self, to: str | None = None, *, model: str | None = None, person: str | None = None) -> Assignment:
        """Assign a waiting task to another agent, model or person.

        *to*: an agent's name, ``role:reviewer``, ``label:python``, ``default``, or a program such as ``claude``. The
        task of a *person* waits with the questions, and the answer completes it. Raises NotFound or Refused.
        """
        runtime = self.runtime
        assigned = runtime.transact(assign_task, self.id, actor=runtime.actor, to=to, model=model, person=person)
        runtime.wake_project(self.record.project_id)
        return assigned

    def set_priority(self, priority: int) -> bool:
        """Change the priority of an open task; return whether it was open."""
        runtime = self.runtime
        changed = runtime.transact(change_priority, self.id, priority, actor=runtime.actor)
        runtime.wake_project(self.record.project_id)
        return changed

    def logs(self, *, follow: bool = False, attempt: int | None = None) -> Iterator[OutputChunk]:
        """Yield the output of its latest attempt, or of that *attempt*; *follow*: as it is printed.

        Following continues in the next attempt after a retry and ends with the task, or with that *attempt*. Output of
        a running job appears within about two seconds. Raises NotFound for an unknown attempt.
        """
        return read_output(self.runtime, self.record, follow=follow, attempt=attempt)

    def last_lines(self) -> tuple[LastLines, ...]:
        """Return the last lines of its latest attempt's output, by stream; ``logs`` returns all output."""
        latest = self.runtime.read(attempts.latest, self.id)
        return () if latest is None else last_lines(self.record.work, latest.output, latest.log)

    def outdated(self) -> list[OutdatedTask]:
        """Return the inputs of its latest attempt, running or completed, that have newer results now."""
        return self.runtime.read(outdated.of_tasks, [self.id])

    def checkout(self, *, attempt: int | None = None) -> TaskCheckout:
        """Return the folder of its newest attempt, or of that *attempt*, with the variables of the job.

        Raises NotFound where it is gone, or on another machine.
        """
        return checkout_of(self.runtime, self.record, attempt=attempt)

    def artifacts(self) -> list[Artifact]:
        """Return the output files of its latest attempt, by path."""
        return self.runtime.read(artifacts.of_task, self.id)

    def answer(self, text: str) -> bool:
        """Answer the task's open question; True if the task can run now. Raises Refused when it has none.

        The task of a person is completed by the answer, and its output is the text.
        """
        return answer(self.runtime, self.record, text)

    def questions(self) -> list[Question]:
        """Return the questions of its agent, with the answers."""
        return self.runtime.read(questions.of_task, self.id)

    def explain(self) -> TaskExplanation:
        """Return why the task is not running, and the commands that help."""
        return explain_tasks(self.runtime, [self.record])[0]

    def prompt(self) -> str:
        """Return the prompt that its agent would get if it started now. Raises Refused for a job without a prompt."""
        return prompt_of(self.runtime, self.record)
