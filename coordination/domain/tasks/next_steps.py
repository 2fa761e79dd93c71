"""Next steps: the commands that continue a task or a run, by situation.

This is the only such table, for ``coord explain``, the end of a run, ``coord status`` and the MCP tools. A person
replaces words in capitals (USD, N) and in quotation marks ('the answer') in commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Situation(StrEnum):
    """A reason why a task or a run does not continue, or a state in which a command applies."""

    # an open task
    QUESTION = "question"
    PERSON = "person"  # assigned to a person
    OUTCOME_UNKNOWN = "outcome_unknown"
    LIMIT = "limit"
    MODEL = "model"
    ON_HOLD = "on_hold"
    NOT_BEFORE = "not_before"  # a start time, a back-off, a provider's limit
    SLOT = "slot"
    NO_WORKER = "no_worker"
    NO_WORKER_OF_WORKSPACE = "no_worker_of_workspace"
    SUPERVISOR = "supervisor"
    NEED_ENDED_BADLY = "need_ended_badly"
    # a task that has ended or runs
    FAILED = "failed"
    GATE = "gate"
    CONFLICT = "conflict"
    PROGRAM = "program"
    FOLDER = "folder"
    LOG_IN = "log_in"
    CANCELED = "canceled"
    CANCELED_WITH_NEED = "canceled_with_need"
    OUTDATED = "outdated"
    RUNNING = "running"
    READY = "ready"
    COMPLETED = "completed"
    # a run
    RUN_ENDED_BADLY = "run_ended_badly"
    RUN_STUCK = "run_stuck"
    RUN_INTERRUPTED = "run_interrupted"


@dataclass(frozen=True, slots=True)
class NextStep:
    """A command and its purpose, a phrase that the command completes."""

    what: str
    command: str

    def sentence(self) -> str:
        """Return the step as half a sentence."""
        return f"{self.what}: {self.command}"

    def to_json(self) -> dict[str, str]:
        """Return the form for --json."""
        return {"what": self.what, "command": self.command}


_OUTPUT = ("show its output", "coord tasks logs {task}")
_FIXED = ("after fixing it", "coord tasks retry {task}")
_NOW = "coord tasks force {task} queued --reason 'start now'"

_PLACE = re.compile(r"\{([a-z]+)\}")

# The last command of each continues the task or run.
_STEPS: Mapping[Situation, tuple[tuple[str, str], ...]] = {
    Situation.QUESTION: (("answer it", "coord tasks answer {task} 'the answer'"),),
    Situation.PERSON: (("when it is done", "coord tasks answer {task} 'the result'"),),
    Situation.OUTCOME_UNKNOWN: (
        ("if it was done", "coord tasks force {task} completed --reason 'it was done'"),
        ("if not, run it again with", "coord tasks retry {task}"),
    ),
    Situation.LIMIT: (("resume it with", "coord tasks retry {task}"),),
    Situation.ON_HOLD: (("resume it with", "coord projects resume {project}"),),
    Situation.NOT_BEFORE: (("start it now with", _NOW),),
    Situation.SLOT: (("raise it with", "coord projects limit {project} --{limit} {value}"),),
    Situation.NO_WORKER: (("start one with", "coord up"),),
    Situation.NO_WORKER_OF_WORKSPACE: (("start one with", "COORD_WORKSPACES={workspace} coord worker"),),
    Situation.SUPERVISOR: (("diagnose it with", "coord doctor --live"),),
    Situation.NEED_ENDED_BADLY: (("retry it with", "coord tasks retry {need}"),),
    Situation.FAILED: (_OUTPUT, _FIXED),
    Situation.GATE: (("show the gate's output", "coord tasks logs {task}"), _FIXED),
    Situation.CONFLICT: (("show the conflict", "coord tasks logs {task}"), _FIXED),
    Situation.MODEL: (
        ("show the allowed models", "coord projects show {project}"),
        ("allow it with", "coord projects change {project} {models}"),
    ),
    Situation.PROGRAM: (("install it where the worker runs, or correct the plan, then", "coord tasks retry {task}"),),
    Situation.FOLDER: (("when the folder exists", "coord tasks retry {task}"),),
    Situation.LOG_IN: (("then", "coord tasks retry {task}"),),
    Situation.CANCELED: (("run it anyway with", "coord tasks retry {task}"),),
    Situation.CANCELED_WITH_NEED: (("restore it with", "coord tasks retry {need}"),),
    Situation.OUTDATED: (("run it again with", "coord tasks force {task} queued --reason 'it is outdated'"),),
    Situation.RUNNING: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.READY: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.COMPLETED: (("show its output", "coord tasks output {task}"),),
    Situation.RUN_ENDED_BADLY: (("retry what did not complete", "coord resume {run} --retry"),),
    Situation.RUN_STUCK: (
        ("show why it does not continue", "coord runs show {run}"),
        ("retry what did not complete", "coord resume {run} --retry"),
    ),
    Situation.RUN_INTERRUPTED: (("continue with", "coord resume {run}"),),
}

# Patterns of errors where something other than the job has failed.
_ERROR_PATTERNS: tuple[tuple[re.Pattern[str], Situation], ...] = (
    (re.compile(r"gate .{0,200} failed: ", re.DOTALL), Situation.GATE),
    (re.compile(r"its change conflicts with what others have merged"), Situation.CONFLICT),
    (re.compile(r".{0,400} is not installed where this worker looks for programs", re.DOTALL), Situation.PROGRAM),
    (re.compile(r"The job's folder "), Situation.FOLDER),
    (re.compile(r".{0,400} is not logged in (where this worker runs|with the account )", re.DOTALL), Situation.LOG_IN),
)


def steps(situation: Situation, **names: str | Sequence[str]) -> tuple[NextStep, ...]:
    """Return the commands for a *situation*; the last one continues the task or run.

    *names* fill the placeholders of the commands: ``task``, ``need``, ``run``, ``project``, ``workspace``; ``limit``
    and ``value`` of a slot; ``models``, several arguments. They are quoted for a shell here.
    """
    quoted = {
        name: shlex.quote(value) if isinstance(value, str) else shlex.join(value) for name, value in names.items()
    }
    return tuple(NextStep(what, _fill(command, quoted)) for what, command in _STEPS[situation])


def _fill(command: str, names: Mapping[str, str]) -> str:
    # In one pass: a placeholder inside a name must not be replaced, or it would be quoted within quotes.
    return _PLACE.sub(lambda match: names.get(match[1], match[0]), command)


def situation_of_error(error: str | None) -> Situation:
    """Return the situation of a task that failed with *error*."""
    matches = (situation for pattern, situation in _ERROR_PATTERNS if pattern.match(error or ""))
    return next(matches, Situation.FAILED)


def join_steps(next_steps: Iterable[NextStep]) -> str:
    """Return the steps on one line, in their order; empty without any."""
    return "; ".join(step.sentence() for step in next_steps)
