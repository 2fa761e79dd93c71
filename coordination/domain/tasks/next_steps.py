"""Next steps: for each situation of a task or a run, the commands that continue it. Pure.

The one table for ``coord explain``, the end of a run, ``coord status`` and the MCP tools. In commands, words in
capitals (USD, N) and in quotation marks ('the answer') are for the person to fill in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Situation(StrEnum):
    """Why a task or a run does not continue, or what can be done with it."""

    # an open task
    QUESTION = "question"
    PERSON = "person"  # its owner is a person
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
    # a task that has ended, or runs
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
    """A command and its purpose, as half a sentence."""

    what: str
    command: str

    def sentence(self) -> str:
        """For people."""
        return f"{self.what}: {self.command}"

    def to_json(self) -> dict[str, str]:
        """As printed by --json."""
        return {"what": self.what, "command": self.command}


_OUTPUT = ("what it printed", "coord tasks logs {task}")
_FIXED = ("when that is fixed", "coord tasks retry {task}")
_NOW = "coord tasks force {task} queued --reason 'it need not wait'"

_PLACE = re.compile(r"\{([a-z]+)\}")

# The last command of each continues the task or run.
_STEPS: Mapping[Situation, tuple[tuple[str, str], ...]] = {
    Situation.QUESTION: (("answer it", "coord tasks answer {task} 'the answer'"),),
    Situation.PERSON: (("when it is done", "coord tasks answer {task} 'what came of it'"),),
    Situation.OUTCOME_UNKNOWN: (
        ("if it was done", "coord tasks force {task} completed --reason 'it was done'"),
        ("if it was not, run it again with", "coord tasks retry {task}"),
    ),
    Situation.LIMIT: (("resume it with", "coord tasks retry {task}"),),
    Situation.ON_HOLD: (("resume it with", "coord projects resume {project}"),),
    Situation.NOT_BEFORE: (("start it now with", _NOW),),
    Situation.SLOT: (("raise it with", "coord projects limit {project} --{limit} {value}"),),
    Situation.NO_WORKER: (("start one with", "coord up"),),
    Situation.NO_WORKER_OF_WORKSPACE: (("start one with", "COORD_WORKSPACES={workspace} coord worker"),),
    Situation.SUPERVISOR: (("what is wrong with it", "coord doctor --live"),),
    Situation.NEED_ENDED_BADLY: (("retry it with", "coord tasks retry {need}"),),
    Situation.FAILED: (_OUTPUT, _FIXED),
    Situation.GATE: (("what the gate printed", "coord tasks logs {task}"), _FIXED),
    Situation.CONFLICT: (("what is in conflict", "coord tasks logs {task}"), _FIXED),
    Situation.MODEL: (
        ("what the project allows", "coord projects show {project}"),
        ("allow it with", "coord projects change {project} --models 'allow=[\"MODEL\"]'"),
    ),
    Situation.PROGRAM: (
        ("install it where the worker runs, or correct the plan, and then", "coord tasks retry {task}"),
    ),
    Situation.FOLDER: (("when the folder is there", "coord tasks retry {task}"),),
    Situation.LOG_IN: (("and then", "coord tasks retry {task}"),),
    Situation.CANCELED: (("run it anyway with", "coord tasks retry {task}"),),
    Situation.CANCELED_WITH_NEED: (("restore it with", "coord tasks retry {need}"),),
    Situation.OUTDATED: (("run it again with", "coord tasks force {task} queued --reason 'it is outdated'"),),
    Situation.RUNNING: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.READY: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.COMPLETED: (("its output", "coord tasks output {task}"),),
    Situation.RUN_ENDED_BADLY: (("retry what did not complete", "coord resume {run} --retry"),),
    Situation.RUN_STUCK: (
        ("why it does not continue", "coord runs show {run}"),
        ("retry what did not complete", "coord resume {run} --retry"),
    ),
    Situation.RUN_INTERRUPTED: (("continue with", "coord resume {run}"),),
}

# How errors start, or what they contain, where something other than the job has failed.
_OF_ERRORS: tuple[tuple[re.Pattern[str], Situation], ...] = (
    (re.compile(r"gate .{0,200} failed: ", re.DOTALL), Situation.GATE),
    (re.compile(r"its change conflicts with what others have merged"), Situation.CONFLICT),
    (re.compile(r".{0,400} is not installed where this worker looks for programs", re.DOTALL), Situation.PROGRAM),
    (re.compile(r"The job's folder "), Situation.FOLDER),
    (re.compile(r".{0,400} is not logged in (where this worker runs|with the account )", re.DOTALL), Situation.LOG_IN),
)


def steps(situation: Situation, **names: str) -> tuple[NextStep, ...]:
    """Return the commands for a *situation*; the last one continues the task or run.

    *names*: those of the situation, as commands take them: ``task``, ``need``, ``run``, ``project``,
    ``workspace``; ``limit`` and ``value`` of a slot. They are quoted for a shell here.
    """
    quoted = {name: shlex.quote(value) for name, value in names.items()}
    return tuple(NextStep(what, _filled(command, quoted)) for what, command in _STEPS[situation])


def _filled(command: str, names: Mapping[str, str]) -> str:
    # All at once: a placeholder inside a name must not be replaced, or it would be quoted within quotes.
    return _PLACE.sub(lambda found: names.get(found[1], found[0]), command)


def failure_of(error: str | None) -> Situation:
    """Return the situation of a task that failed with *error*."""
    found = (situation for pattern, situation in _OF_ERRORS if pattern.match(error or ""))
    return next(found, Situation.FAILED)


def sentence(found: Iterable[NextStep]) -> str:
    """Return the steps on one line, in their order; empty without any."""
    return "; ".join(step.sentence() for step in found)
