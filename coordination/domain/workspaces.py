"""Where a task works and what must pass before it is done: workspaces, gates, and the names of branches. Pure.

A task works in its folder, or in a git worktree of its own, whose change is merged to the branch of the run. Gates are
commands that must succeed there, the project's first, then the plan's, then the task's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from coordination.domain.durations import LONGEST, parse_duration
from coordination.domain.excerpts import did_you_mean, excerpt
from coordination.domain.json_values import text_problem
from coordination.errors import Refused

GATE_TIMEOUT = timedelta(minutes=10)
MAX_GATES = 50

_LONGEST_COMMAND = 100_000
_LONGEST_NAME = 200
_LONGEST_BASE = 500


class WorkspaceKind(StrEnum):
    """Where a task works."""

    FOLDER = "folder"  # where its workdir says
    GIT_WORKTREE = "git-worktree"  # in a worktree of its own; its change is merged to the run's branch


@dataclass(frozen=True, slots=True)
class HalfMerged:
    """A change that met a conflict, to be merged by the task: its commit, and the key of the task that made it."""

    commit: str
    task: str


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a task works. ``base``: where the run's branch begins, else at the checkout's HEAD.

    ``keep_failed``: how long the worktree of a failed attempt is kept, else as the worker's settings say. ``merge``: a
    change that the worktree begins with, half merged; made by the merge queue.
    """

    kind: WorkspaceKind
    base: str | None = None
    keep_failed: timedelta | None = None
    merge: HalfMerged | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored with the task, and as a plan's file may say it."""
        more = {
            "base": self.base,
            "keep_failed": None if self.keep_failed is None else self.keep_failed.total_seconds(),
            "merge": None if self.merge is None else {"commit": self.merge.commit, "task": self.merge.task},
        }
        return {"kind": self.kind.value} | {name: value for name, value in more.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Gate:
    """A shell command that must succeed before the task counts as completed."""

    run: str
    timeout: timedelta = GATE_TIMEOUT
    name: str | None = None

    @property
    def called(self) -> str:
        """What people call it: its name, or its command on one line."""
        return self.name or " ".join(self.run.split())

    def to_json(self) -> str | dict[str, Any]:
        """As stored with the task, and as a plan's file may say it."""
        if self == Gate(self.run):
            return self.run
        name = {} if self.name is None else {"name": self.name}
        return {"run": self.run, "timeout": self.timeout.total_seconds(), **name}


FOLDER = Workspace(WorkspaceKind.FOLDER)

WORKSPACE_KEYS = ("kind", "base", "keep_failed", "merge")
MERGE_KEYS = ("commit", "task")
GATE_KEYS = ("run", "timeout", "name")


def parse_workspace(value: object) -> Workspace:
    """A workspace from what a person or a stored row says: a kind, or a mapping with the key ``kind``.

    Raises Refused with one sentence that names what is wrong.
    """
    if isinstance(value, Workspace):
        return value if value is FOLDER else _checked(value)
    if isinstance(value, str):
        return Workspace(_kind(value))
    if not isinstance(value, Mapping):
        raise Refused(f"workspace must be {' or '.join(WorkspaceKind)}, not {excerpt(value)}")
    _only(value, WORKSPACE_KEYS, "workspace")
    merge = value.get("merge")
    if merge is not None:
        if not isinstance(merge, Mapping):
            raise Refused("workspace.merge must be a mapping")
        _only(merge, MERGE_KEYS, "workspace.merge")
        merge = HalfMerged(_text(merge.get("commit"), "workspace.merge.commit"), _text(merge.get("task"), "its task"))
    keep = value.get("keep_failed")
    return _checked(
        Workspace(
            _kind(value.get("kind")),
            base=value.get("base"),
            keep_failed=None if keep is None else parse_duration(keep),
            merge=merge,
        )
    )


def parse_gates(value: object) -> tuple[Gate, ...]:
    """Gates from what a person or a stored row says: one command, or a list of commands and mappings.

    Raises Refused with one sentence that names what is wrong.
    """
    if value is None or value == ():
        return ()
    if isinstance(value, str | Gate):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Refused(f"gates must be a list of commands, not {excerpt(value)}", hint='Write it like ["pytest -q"]')
    if len(value) > MAX_GATES:
        raise Refused(f"There are {len(value):,} gates; at most {MAX_GATES} are possible")
    return tuple(_gate(item) for item in value)


def gates_for(
    kind: str, workspace: Workspace, *, project: Iterable[Gate], plan: Iterable[Gate], task: Iterable[Gate]
) -> tuple[Gate, ...]:
    """The gates of one task in their order, each once. *kind*: what its job is (``shell``, ``agent``, …).

    Those of project and plan are for tasks that change something: agents' jobs, and whatever has a worktree.
    """
    shared = workspace.kind is WorkspaceKind.GIT_WORKTREE or kind == "agent"
    return tuple(dict.fromkeys([*(project if shared else ()), *(plan if shared else ()), *task]))


def surrounded(options: Mapping[str, Any]) -> bool:
    """Whether more than its job belongs to a task with these stored options: a workspace of its own, or gates."""
    return bool(options) and ("workspace" in options or "gates" in options)


def common_base(workspaces: Iterable[Workspace]) -> str | None:
    """Where the branch of a run of such tasks begins, if they say so; Refused when they say different things."""
    named = list(dict.fromkeys(workspace.base for workspace in workspaces if workspace.base is not None))
    if len(named) > 1:
        raise Refused(
            f"The run's branch cannot begin at both {excerpt(named[0])} and {excerpt(named[1])}",
            hint="All tasks of a plan share one branch; say its base once, in defaults",
        )
    return named[0] if named else None


# --- names in git

_TAIL = 12
_PLAIN = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*")
_MADE = re.compile(r".*-[0-9a-f]{8}")
_LONGEST_SLUG = 60
_OF_THE_RUN = "run"


def run_branch(run_id: str) -> str:
    """The branch that the changes of a run are merged to."""
    return f"coord/{run_slug(run_id)}/{_OF_THE_RUN}"


def task_branch(run_id: str, key: str) -> str:
    """The branch on which a task of the run works. No two keys, and never the run itself, have one name."""
    return f"coord/{run_slug(run_id)}/{slug(key)}"


def run_slug(run_id: str) -> str:
    """The end of a run's id: its beginning is the time, which runs share."""
    return slug(run_id[-_TAIL:])


def slug(key: str) -> str:
    """*key* as one part of a branch's name, or of a path: itself if that is possible, else told apart by a hash."""
    plain = _PLAIN.fullmatch(key) and len(key) <= _LONGEST_SLUG and not _MADE.fullmatch(key)
    if plain and key != _OF_THE_RUN and not key.endswith(".lock"):
        return key
    digest = hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", key)[:_LONGEST_SLUG].strip("-")
    return f"{readable or 'task'}-{digest}"


# --- parts


def _kind(value: object) -> WorkspaceKind:
    if isinstance(value, str) and value in list(WorkspaceKind):
        return WorkspaceKind(value)
    hint = did_you_mean(value, list(WorkspaceKind)) if isinstance(value, str) else None
    raise Refused(f"workspace must be {' or '.join(WorkspaceKind)}, not {excerpt(value)}", hint=hint)


def _checked(workspace: Workspace) -> Workspace:
    base, keep = workspace.base, workspace.keep_failed
    if not isinstance(workspace.kind, WorkspaceKind):
        raise Refused(f"workspace must be {' or '.join(WorkspaceKind)}, not {excerpt(workspace.kind)}")
    if workspace.kind is WorkspaceKind.FOLDER and workspace != FOLDER:
        raise Refused("workspace: base, keep_failed and merge are for git-worktree")
    if base is not None:
        _text(base, "workspace.base")
        # It stands alone in a command, where a dash would make it an option.
        if base.startswith("-") or len(base) > _LONGEST_BASE or re.search(r"[\s\x00-\x1f\x7f]", base):
            raise Refused(f"workspace.base is {excerpt(base)}, which names no branch, tag or commit")
    if keep is not None and not (isinstance(keep, timedelta) and timedelta(0) <= keep <= LONGEST):
        raise Refused(f"workspace.keep_failed must be a duration, not {excerpt(keep)}")
    if workspace.merge is not None and not re.fullmatch(r"[0-9a-f]{40,64}", workspace.merge.commit):
        raise Refused("workspace.merge.commit must be the whole id of a commit")
    return workspace


def _gate(item: object) -> Gate:
    if isinstance(item, str):
        item = Gate(item)
    if isinstance(item, Mapping):
        _only(item, GATE_KEYS, "a gate")
        limit = item.get("timeout")
        item = Gate(
            item.get("run", ""), GATE_TIMEOUT if limit is None else parse_duration(limit), name=item.get("name")
        )
    if not isinstance(item, Gate):
        raise Refused(f"A gate is a command, or a mapping with the key run, not {excerpt(item)}")
    if not isinstance(item.run, str) or not item.run.strip():
        raise Refused("A gate needs a command, written as one text")
    if len(item.run) > _LONGEST_COMMAND:
        raise Refused(f"A gate's command has {len(item.run):,} characters, at most {_LONGEST_COMMAND:,} are possible")
    if problem := text_problem(item.run):
        raise Refused(f"A gate's command {problem}")
    if not isinstance(item.timeout, timedelta) or not timedelta(0) < item.timeout <= LONGEST:
        raise Refused(f"The timeout of a gate must be longer than zero, not {excerpt(item.timeout)}")
    if item.name is not None:
        _text(item.name, "The name of a gate")
        if len(item.name) > _LONGEST_NAME or not item.name.isprintable():
            raise Refused(f"The name of a gate must be one short line, not {excerpt(item.name)}")
    return item


def _only(value: Mapping[Any, Any], known: Sequence[str], what: str) -> None:
    for key in value:
        if key not in known:
            hint = did_you_mean(key, known) if isinstance(key, str) else None
            raise Refused(f"{what} has no key {excerpt(key)}", hint=hint or f"It may have: {', '.join(known)}")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{what} must be a text, not {excerpt(value)}")
    return value
