"""Where a task works and what must pass before it is done: checkouts, gates, and the names of branches. Pure.

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

from coordination.base.durations import MAX_DURATION, parse_duration
from coordination.base.errors import Refused
from coordination.base.json_values import text_problem
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs.preparation import NO_PREPARATION, PREPARATION_KEYS, Preparation, parse_preparation

GATE_TIMEOUT = timedelta(minutes=10)
MAX_GATES = 50

_LONGEST_COMMAND = 100_000
_LONGEST_NAME = 200
_LONGEST_BASE = 500


class CheckoutKind(StrEnum):
    """Where a task works."""

    FOLDER = "folder"  # where its workdir says
    GIT_WORKTREE = "git-worktree"  # in a worktree of its own; its change is merged to the run's branch


@dataclass(frozen=True, slots=True)
class HalfMerged:
    """A change that met a conflict, to be merged by the task: its commit, and the key of the task that made it."""

    commit: str
    task: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where a task works. ``base``: where the run's branch begins, else at the checkout's HEAD.

    ``keep_failed``: how long the worktree of a failed attempt is kept, else as the worker's settings say. ``merge``: a
    change that the worktree begins with, half merged; made by the merge queue. ``prepare``: what makes it ready.
    """

    kind: CheckoutKind
    base: str | None = None
    keep_failed: timedelta | None = None
    merge: HalfMerged | None = None
    prepare: Preparation = NO_PREPARATION

    def to_json(self) -> dict[str, Any]:
        """As stored with the task, and as a plan's file may say it."""
        more = {
            "base": self.base,
            "keep_failed": None if self.keep_failed is None else self.keep_failed.total_seconds(),
            "merge": None if self.merge is None else {"commit": self.merge.commit, "task": self.merge.task},
        }
        given = {name: value for name, value in more.items() if value is not None}
        return {"kind": self.kind.value} | given | self.prepare.to_json()


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


FOLDER = Checkout(CheckoutKind.FOLDER)

# The names of before, when a checkout was called a workspace, which is the tenant.
Workspace = Checkout
WorkspaceKind = CheckoutKind

STORED = "workspace"
"""The key of a checkout among a task's stored options."""

CHECKOUT_KEYS = ("kind", "base", "keep_failed", "merge", *PREPARATION_KEYS)
MERGE_KEYS = ("commit", "task")
GATE_KEYS = ("run", "timeout", "name")


def parse_checkout(value: object) -> Checkout:
    """A checkout from what a person or a stored row says: a kind, or a mapping with the key ``kind``.

    Raises Refused with one sentence that names what is wrong.
    """
    if isinstance(value, Checkout):
        return value if value is FOLDER else _checked(value)
    if isinstance(value, str):
        return Checkout(_kind(value))
    if not isinstance(value, Mapping):
        raise Refused(f"checkout must be {' or '.join(CheckoutKind)}, not {excerpt(value)}", field="checkout")
    _only(value, CHECKOUT_KEYS, "checkout")
    merge = value.get("merge")
    if merge is not None:
        if not isinstance(merge, Mapping):
            raise Refused("checkout.merge must be a mapping", field="checkout.merge")
        _only(merge, MERGE_KEYS, "checkout.merge")
        merge = HalfMerged(
            _text(merge.get("commit"), "checkout.merge.commit"),
            _text(merge.get("task"), "its task", field="checkout.merge.task"),
        )
    keep = value.get("keep_failed")
    return _checked(
        Checkout(
            _kind(value.get("kind")),
            base=value.get("base"),
            keep_failed=None if keep is None else parse_duration(keep),
            merge=merge,
            prepare=parse_preparation(value),
        )
    )


parse_workspace = parse_checkout


def parse_gates(value: object) -> tuple[Gate, ...]:
    """Gates from what a person or a stored row says: one command, or a list of commands and mappings.

    Raises Refused with one sentence that names what is wrong.
    """
    if value is None or value == ():
        return ()
    if isinstance(value, str | Gate):
        value = [value]
    if not isinstance(value, list | tuple):
        raise Refused(
            f"gates must be a list of commands, not {excerpt(value)}", hint='Write it like ["pytest -q"]', field="gates"
        )
    if len(value) > MAX_GATES:
        raise Refused(f"There are {len(value):,} gates; at most {MAX_GATES} are possible", field="gates")
    return tuple(_gate(item) for item in value)


def gates_for(
    kind: str, checkout: Checkout, *, project: Iterable[Gate], plan: Iterable[Gate], task: Iterable[Gate]
) -> tuple[Gate, ...]:
    """The gates of one task in their order, each once. *kind*: what its job is (``shell``, ``agent``, …).

    Those of project and plan are for tasks that change something: agents' jobs, and whatever has a worktree.
    """
    shared = checkout.kind is CheckoutKind.GIT_WORKTREE or kind == "agent"
    return tuple(dict.fromkeys([*(project if shared else ()), *(plan if shared else ()), *task]))


def without_merge(checkout: Mapping[str, Any]) -> dict[str, Any]:
    """A stored checkout as tasks inherit it: what is half merged is for one task."""
    return {name: value for name, value in checkout.items() if name != "merge"}


def common_base(checkouts: Iterable[Checkout]) -> str | None:
    """Where the branch of a run of such tasks begins, if they say so; Refused when they say different things."""
    named = list(dict.fromkeys(checkout.base for checkout in checkouts if checkout.base is not None))
    if len(named) > 1:
        raise Refused(
            f"The run's branch cannot begin at both {excerpt(named[0])} and {excerpt(named[1])}",
            hint="All tasks of a plan share one branch; say its base once, in defaults",
        )
    return named[0] if named else None


# --- names in git

MERGE_KEY = "merge coord/"
"""How the concurrency keys of conflict tasks begin. A claim limits them to one, also where no limit is stored."""

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


def merge_key(run_id: str) -> str:
    """The concurrency key of the run's conflict tasks: one of them works at a time."""
    return f"merge {run_branch(run_id)}"


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


def _kind(value: object) -> CheckoutKind:
    if isinstance(value, str) and value in list(CheckoutKind):
        return CheckoutKind(value)
    hint = did_you_mean(value, list(CheckoutKind)) if isinstance(value, str) else None
    raise Refused(f"checkout must be {' or '.join(CheckoutKind)}, not {excerpt(value)}", hint=hint, field="checkout")


def _checked(checkout: Checkout) -> Checkout:
    base, keep = checkout.base, checkout.keep_failed
    if not isinstance(checkout.kind, CheckoutKind):
        raise Refused(f"checkout must be {' or '.join(CheckoutKind)}, not {excerpt(checkout.kind)}", field="checkout")
    if checkout.kind is CheckoutKind.FOLDER and checkout != FOLDER:
        raise Refused("checkout: everything but its kind is for git-worktree", field="checkout")
    if base is not None:
        _text(base, "checkout.base")
        # It stands alone in a command, where a dash would make it an option.
        if base.startswith("-") or len(base) > _LONGEST_BASE or re.search(r"[\s\x00-\x1f\x7f]", base):
            raise Refused(
                f"checkout.base is {excerpt(base)}, which names no branch, tag or commit", field="checkout.base"
            )
    if keep is not None and not (isinstance(keep, timedelta) and timedelta(0) <= keep <= MAX_DURATION):
        raise Refused(f"checkout.keep_failed must be a duration, not {excerpt(keep)}", field="checkout.keep_failed")
    if checkout.merge is not None and not re.fullmatch(r"[0-9a-f]{40,64}", checkout.merge.commit):
        raise Refused("checkout.merge.commit must be the whole id of a commit", field="checkout.merge.commit")
    parse_preparation(checkout.prepare.to_json())
    return checkout


def _gate(item: object) -> Gate:
    if isinstance(item, str):
        item = Gate(item)
    if isinstance(item, Mapping):
        _only(item, GATE_KEYS, "a gate", field="gates")
        limit = item.get("timeout")
        item = Gate(
            item.get("run", ""), GATE_TIMEOUT if limit is None else parse_duration(limit), name=item.get("name")
        )
    if not isinstance(item, Gate):
        raise Refused(f"A gate is a command, or a mapping with the key run, not {excerpt(item)}", field="gates")
    if not isinstance(item.run, str) or not item.run.strip():
        raise Refused("A gate needs a command, written as one text", field="gates")
    if len(item.run) > _LONGEST_COMMAND:
        raise Refused(
            f"A gate's command has {len(item.run):,} characters, at most {_LONGEST_COMMAND:,} are possible",
            field="gates",
        )
    if problem := text_problem(item.run):
        raise Refused(f"A gate's command {problem}", field="gates")
    if not isinstance(item.timeout, timedelta) or not timedelta(0) < item.timeout <= MAX_DURATION:
        raise Refused(f"The timeout of a gate must be longer than zero, not {excerpt(item.timeout)}", field="gates")
    if item.name is not None:
        _text(item.name, "The name of a gate", field="gates")
        if len(item.name) > _LONGEST_NAME or not item.name.isprintable():
            raise Refused(f"The name of a gate must be one short line, not {excerpt(item.name)}", field="gates")
    return item


def _only(value: Mapping[Any, Any], known: Sequence[str], what: str, *, field: str | None = None) -> None:
    for key in value:
        if key not in known:
            hint = did_you_mean(key, known) if isinstance(key, str) else None
            hint = hint or f"It may have: {', '.join(known)}"
            raise Refused(f"{what} has no key {excerpt(key)}", hint=hint, field=field or f"{what}.{key}")


def _text(value: object, what: str, *, field: str | None = None) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{what} must be a text, not {excerpt(value)}", field=field or what)
    return value
