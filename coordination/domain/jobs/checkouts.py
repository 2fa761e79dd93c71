"""Checkouts and gates of tasks, and the names of git branches.

A task works in its folder, or in its own git worktree, whose changes are merged into the branch of the run. Gates are
commands that must succeed there: the project's first, then the plan's, then the task's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from coordination.base.durations import MAX_DURATION, parse_duration
from coordination.base.errors import Refused
from coordination.base.fields import check_keys
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

    FOLDER = "folder"  # its workdir
    GIT_WORKTREE = "git-worktree"  # its own worktree, whose changes are merged into the run's branch


@dataclass(frozen=True, slots=True)
class HalfMerged:
    """A change with a merge conflict that the task must resolve: its commit, and the key of the task that made it."""

    commit: str
    task: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where a task works. ``base``: where the run's branch begins; default: HEAD of the repository.

    ``keep_failed``: how long the worktree of a failed attempt is kept; default: the worker's setting. ``merge``: a
    half-merged change that the worktree starts with, set by the merge queue. ``prepare``: how it is prepared.
    """

    kind: CheckoutKind
    base: str | None = None
    keep_failed: timedelta | None = None
    merge: HalfMerged | None = None
    prepare: Preparation = NO_PREPARATION

    def to_json(self) -> dict[str, Any]:
        """Return the form that is stored with the task, and that plan files may have."""
        more = {
            "base": self.base,
            "keep_failed": None if self.keep_failed is None else self.keep_failed.total_seconds(),
            "merge": None if self.merge is None else {"commit": self.merge.commit, "task": self.merge.task},
        }
        options = {name: value for name, value in more.items() if value is not None}
        return {"kind": self.kind.value} | options | self.prepare.to_json()


@dataclass(frozen=True, slots=True)
class Gate:
    """A shell command that must succeed before the task counts as completed."""

    run: str
    timeout: timedelta = GATE_TIMEOUT
    name: str | None = None

    @property
    def label(self) -> str:
        """Return its name, or its command on one line."""
        return self.name or " ".join(self.run.split())

    def to_json(self) -> str | dict[str, Any]:
        """Return the form that is stored with the task, and that plan files may have."""
        if self == Gate(self.run):
            return self.run
        name = {} if self.name is None else {"name": self.name}
        return {"run": self.run, "timeout": self.timeout.total_seconds(), **name}


FOLDER = Checkout(CheckoutKind.FOLDER)

CHECKOUT_OPTION = "checkout"
"""The key of the checkout in a task's stored options."""

CHECKOUT_KEYS = ("kind", "base", "keep_failed", "merge", *PREPARATION_KEYS)
MERGE_KEYS = ("commit", "task")
GATE_KEYS = ("run", "timeout", "name")


def parse_checkout(value: object) -> Checkout:
    """Parse a checkout: a kind, or a mapping with the key ``kind``. Raises Refused for what is wrong with it."""
    if isinstance(value, Checkout):
        return _check_checkout(value)
    if isinstance(value, str):
        return Checkout(_kind(value))
    if not isinstance(value, Mapping):
        raise Refused(f"checkout must be {' or '.join(CheckoutKind)}, not {excerpt(value)}", field="checkout")
    check_keys(value, CHECKOUT_KEYS, "checkout", place="checkout")
    merge = value.get("merge")
    if merge is not None:
        if not isinstance(merge, Mapping):
            raise Refused("checkout.merge must be a mapping", field="checkout.merge")
        check_keys(merge, MERGE_KEYS, "checkout.merge", place="checkout.merge")
        merge = HalfMerged(
            _text(merge.get("commit"), "checkout.merge.commit"),
            _text(merge.get("task"), "its task", field="checkout.merge.task"),
        )
    keep = value.get("keep_failed")
    return _check_checkout(
        Checkout(
            _kind(value.get("kind")),
            base=value.get("base"),
            keep_failed=None if keep is None else parse_duration(keep),
            merge=merge,
            prepare=parse_preparation(value),
        )
    )


def parse_gates(value: object) -> tuple[Gate, ...]:
    """Parse gates: one command, or a list of commands and mappings. Raises Refused for what is wrong with them."""
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
    """Return the gates of a task in their order, without duplicates. *kind*: its job kind.

    The gates of project and plan apply to tasks that change files: jobs of agents, and tasks with a worktree.
    """
    shared = checkout.kind is CheckoutKind.GIT_WORKTREE or kind == "agent"
    return tuple(dict.fromkeys([*(project if shared else ()), *(plan if shared else ()), *task]))


def without_merge(checkout: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored checkout as tasks inherit it: without a half-merged change, which belongs to one task."""
    return {name: value for name, value in checkout.items() if name != "merge"}


def common_base(checkouts: Iterable[Checkout]) -> str | None:
    """Return the base of the run's branch, if a checkout sets one. Raises Refused when they set different ones."""
    bases = list(dict.fromkeys(checkout.base for checkout in checkouts if checkout.base is not None))
    if len(bases) > 1:
        message = f"The run's branch cannot begin at both {excerpt(bases[0])} and {excerpt(bases[1])}"
        raise Refused(message, hint="All tasks of a plan share one branch; set its base once, in defaults")
    return bases[0] if bases else None


# --- names in git

MERGE_KEY = "merge coord/"
"""Prefix of the concurrency keys of conflict tasks. A claim limits these to one, even where no limit is stored."""

_TAIL = 12
_PLAIN = re.compile(r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*")
_HASHED = re.compile(r".*-[0-9a-f]{8}")
_LONGEST_SLUG = 60
_RUN_BRANCH = "run"


def run_branch(run_id: str) -> str:
    """Return the branch that the changes of a run are merged into."""
    return f"coord/{run_slug(run_id)}/{_RUN_BRANCH}"


def task_branch(run_id: str, key: str) -> str:
    """Return the branch of a task; it is unique among the tasks and differs from the run's own branch."""
    return f"coord/{run_slug(run_id)}/{slug(key)}"


def merge_key(run_id: str) -> str:
    """Return the concurrency key of the run's conflict tasks, which run one at a time."""
    return f"merge {run_branch(run_id)}"


def run_slug(run_id: str) -> str:
    """Return the end of a run's id; the beginning is the time, which several runs may share."""
    return slug(run_id[-_TAIL:])


def slug(key: str) -> str:
    """Return *key* as one component of a branch name or path; unsuitable keys are rewritten and get a hash."""
    plain = _PLAIN.fullmatch(key) and len(key) <= _LONGEST_SLUG and not _HASHED.fullmatch(key)
    if plain and key != _RUN_BRANCH and not key.endswith(".lock"):
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


def _check_checkout(checkout: Checkout) -> Checkout:
    base, keep = checkout.base, checkout.keep_failed
    if not isinstance(checkout.kind, CheckoutKind):
        raise Refused(f"checkout must be {' or '.join(CheckoutKind)}, not {excerpt(checkout.kind)}", field="checkout")
    if checkout.kind is CheckoutKind.FOLDER and checkout != FOLDER:
        raise Refused("checkout: only git-worktree has options", field="checkout")
    if base is not None:
        _text(base, "checkout.base")
        # It is an argument of git commands, where a leading dash would make it an option.
        if base.startswith("-") or len(base) > _LONGEST_BASE or re.search(r"[\s\x00-\x1f\x7f]", base):
            raise Refused(
                f"checkout.base is {excerpt(base)}, which is not a branch, tag or commit", field="checkout.base"
            )
    if keep is not None and not (isinstance(keep, timedelta) and timedelta(0) <= keep <= MAX_DURATION):
        raise Refused(f"checkout.keep_failed must be a duration, not {excerpt(keep)}", field="checkout.keep_failed")
    if checkout.merge is not None and not re.fullmatch(r"[0-9a-f]{40,64}", checkout.merge.commit):
        raise Refused("checkout.merge.commit must be a full commit id", field="checkout.merge.commit")
    parse_preparation(checkout.prepare.to_json())
    return checkout


def _gate(item: object) -> Gate:
    if isinstance(item, str):
        item = Gate(item)
    if isinstance(item, Mapping):
        check_keys(item, GATE_KEYS, "a gate", field="gates")
        limit = item.get("timeout")
        item = Gate(
            item.get("run", ""), GATE_TIMEOUT if limit is None else parse_duration(limit), name=item.get("name")
        )
    if not isinstance(item, Gate):
        raise Refused(f"A gate is a command, or a mapping with the key run, not {excerpt(item)}", field="gates")
    if not isinstance(item.run, str) or not item.run.strip():
        raise Refused("A gate needs a command, written as one text", field="gates")
    if len(item.run) > _LONGEST_COMMAND:
        message = f"A gate's command has {len(item.run):,} characters, at most {_LONGEST_COMMAND:,} are possible"
        raise Refused(message, field="gates")
    if problem := text_problem(item.run):
        raise Refused(f"A gate's command {problem}", field="gates")
    if not isinstance(item.timeout, timedelta) or not timedelta(0) < item.timeout <= MAX_DURATION:
        raise Refused(f"The timeout of a gate must be longer than zero, not {excerpt(item.timeout)}", field="gates")
    if item.name is not None:
        _text(item.name, "The name of a gate", field="gates")
        if len(item.name) > _LONGEST_NAME or not item.name.isprintable():
            raise Refused(f"The name of a gate must be one short line, not {excerpt(item.name)}", field="gates")
    return item


def _text(value: object, what: str, *, field: str | None = None) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{what} must be a text, not {excerpt(value)}", field=field or what)
    return value
