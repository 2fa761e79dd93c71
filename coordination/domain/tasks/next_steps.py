"""What a person enters next: for each situation of a task or a run, the commands that let it go on. Pure.

The one table for everybody who says so: ``coord explain``, the end of a run, ``coord status`` and the MCP tools. In
commands, words in capitals (USD, N) and in quotation marks ('the answer') are for the person to fill in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Situation(StrEnum):
    """What keeps a task or a run from going on, or what can be asked of it."""

    # an open task
    QUESTION = "question"
    PERSON = "person"  # who is to do it
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
    """One command, and what it is for as half a sentence."""

    what: str
    command: str

    def sentence(self) -> str:
        """For people."""
        return f"{self.what}: {self.command}"

    def to_json(self) -> dict[str, str]:
        """As printed by --json."""
        return {"what": self.what, "command": self.command}


_LOOK = ("what it printed", "coord tasks logs {task}")
_MENDED = ("when that is mended", "coord tasks retry {task}")
_NOW = "coord tasks force {task} queued --reason 'it need not wait'"

_PLACE = re.compile(r"\{([a-z]+)\}")

# The last command of each is the one that goes on.
_STEPS: Mapping[Situation, tuple[tuple[str, str], ...]] = {
    Situation.QUESTION: (("answer it", "coord tasks answer {task} 'the answer'"),),
    Situation.PERSON: (("when it is done", "coord tasks answer {task} 'what came of it'"),),
    Situation.OUTCOME_UNKNOWN: (
        ("if it was done", "coord tasks force {task} completed --reason 'it was done'"),
        ("if it was not, run it again with", "coord tasks retry {task}"),
    ),
    Situation.LIMIT: (("let it go on with", "coord tasks retry {task}"),),
    Situation.ON_HOLD: (("let it go on with", "coord projects activate {project}"),),
    Situation.NOT_BEFORE: (("start it now with", _NOW),),
    Situation.SLOT: (("raise it with", "coord projects limit {project} --{limit} {value}"),),
    Situation.NO_WORKER: (("start one with", "coord up"),),
    Situation.NO_WORKER_OF_WORKSPACE: (("start one with", "COORD_WORKSPACES={workspace} coord worker"),),
    Situation.SUPERVISOR: (("what is wrong with it", "coord doctor --live"),),
    Situation.NEED_ENDED_BADLY: (("retry it with", "coord tasks retry {need}"),),
    Situation.FAILED: (_LOOK, _MENDED),
    Situation.GATE: (("what the gate printed", "coord tasks logs {task}"), _MENDED),
    Situation.CONFLICT: (("what is in conflict", "coord tasks logs {task}"), _MENDED),
    Situation.MODEL: (
        ("what the project allows", "coord projects show {project}"),
        ("allow it with", "coord projects change {project} --models 'allow=[\"MODEL\"]'"),
    ),
    Situation.PROGRAM: (
        ("install it where the worker runs, or correct the plan, and then", "coord tasks retry {task}"),
    ),
    Situation.FOLDER: (("when the folder is there", "coord tasks retry {task}"),),
    Situation.LOG_IN: (("and then", "coord tasks retry {task}"),),
    Situation.CANCELED: (("run it after all with", "coord tasks retry {task}"),),
    Situation.CANCELED_WITH_NEED: (("it comes back with", "coord tasks retry {need}"),),
    Situation.OUTDATED: (("do it again with", "coord tasks force {task} queued --reason 'it is outdated'"),),
    Situation.RUNNING: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.READY: (("watch it with", "coord tasks logs {task} --follow"),),
    Situation.COMPLETED: (("what it gave", "coord tasks output {task}"),),
    Situation.RUN_ENDED_BADLY: (("try again what did not complete", "coord resume {run} --retry"),),
    Situation.RUN_STUCK: (
        ("why it does not go on", "coord runs show {run}"),
        ("try again what did not complete", "coord resume {run} --retry"),
    ),
    Situation.RUN_INTERRUPTED: (("go on with", "coord resume {run}"),),
}

# How errors begin or what is in them, where they say what else than the job itself was in the way.
_OF_ERRORS: tuple[tuple[re.Pattern[str], Situation], ...] = (
    (re.compile(r"gate .{0,200} failed: ", re.DOTALL), Situation.GATE),
    (re.compile(r"its change conflicts with what others have merged"), Situation.CONFLICT),
    (re.compile(r".{0,400} is not installed where this worker looks for programs", re.DOTALL), Situation.PROGRAM),
    (re.compile(r"The job's folder "), Situation.FOLDER),
    (re.compile(r".{0,400} is not logged in (where this worker runs|with the account )", re.DOTALL), Situation.LOG_IN),
)


def steps(situation: Situation, **names: str) -> tuple[NextStep, ...]:
    """The commands for a *situation*, the one that goes on last.

    *names*: those that the situation has, as a command takes them: ``task``, ``need``, ``run``, ``project``,
    ``workspace``; ``limit`` and ``value`` of a slot. They are quoted for a shell here.
    """
    quoted = {name: shlex.quote(value) for name, value in names.items()}
    return tuple(NextStep(what, _filled(command, quoted)) for what, command in _STEPS[situation])


def _filled(command: str, names: Mapping[str, str]) -> str:
    # All at once: what stands in a name is no place for another one, or that would be quoted within quotes.
    return _PLACE.sub(lambda found: names.get(found[1], found[0]), command)


def failure_of(error: str | None) -> Situation:
    """The situation of a task that failed with *error*."""
    found = (situation for pattern, situation in _OF_ERRORS if pattern.match(error or ""))
    return next(found, Situation.FAILED)


def sentence(found: Iterable[NextStep]) -> str:
    """The steps on one line, the one that goes on at its end; empty without any."""
    return "; ".join(step.sentence() for step in found)
