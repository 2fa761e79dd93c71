"""Warnings about a valid plan: agents that share a folder, programs and secrets that are missing here.

These are only warnings, because the machine where the plan runs may have the programs and secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from coordination.base.errors import CoordinationError
from coordination.base.wording import plural
from coordination.domain.jobs import AGENTS, CUSTOM, AgentCall, Shell, parse_job
from coordination.domain.jobs.checkouts import FOLDER, CheckoutKind, parse_gates
from coordination.domain.plans.graph import topological_order
from coordination.domain.plans.plans import Plan, Task, upstream_keys

_MOST_NAMED = 3

# A plain word at the beginning of a command.
_FIRST_WORD = re.compile(r"\s*([A-Za-z0-9_][A-Za-z0-9_.+-]*|/[A-Za-z0-9_./+-]+)(?=\s|;|$)")
_SHELL_WORDS = frozenset(
    {
        *("alias", "bg", "bind", "break", "builtin", "caller", "case", "cd", "command", "compgen", "complete"),
        *("continue", "coproc", "declare", "dirs", "do", "done", "echo", "elif", "else", "enable", "esac"),
        *("eval", "exec", "exit", "export", "false", "fc", "fg", "fi", "for", "function", "getopts", "hash"),
        *("help", "history", "if", "in", "jobs", "kill", "let", "local", "logout", "mapfile", "popd", "printf"),
        *("pushd", "pwd", "read", "readarray", "readonly", "return", "select", "set", "shift", "shopt"),
        *("source", "suspend", "test", "then", "time", "times", "trap", "true", "type", "typeset", "ulimit"),
        *("umask", "unalias", "unset", "until", "wait", "while"),
    }
)


class WarningCode(StrEnum):
    """The code of a warning, which is stable and machine-readable."""

    SAME_FOLDER = "agents_in_one_folder"
    NO_PROGRAM = "program_missing"
    NO_KEY = "key_missing"
    NO_ACCOUNT = "account_missing"


@dataclass(frozen=True, slots=True)
class PlanWarning:
    """A warning for the plan's author. ``tasks``: keys of the tasks concerned; ``name``: of what is missing."""

    code: WarningCode
    sentence: str
    hint: str
    tasks: tuple[str, ...] = ()
    name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that --json prints."""
        more = {"tasks": list(self.tasks), "name": self.name}
        return {"code": self.code.value, "message": self.sentence, "hint": self.hint, **more}


def warnings_of(
    plan: Plan, *, has_program: Callable[[str], bool], variables: Collection[str]
) -> tuple[PlanWarning, ...]:
    """Return the warnings about a plan.

    *has_program*: whether a program is on the PATH. *variables*: names in the environment.
    """
    works = {task.key: work for task in plan.tasks if (work := _work_of(task)) is not None}
    return (
        *_in_one_folder(plan, works),
        *_missing_programs(plan, works, has_program),
        *_missing_keys(plan, works, variables),
    )


def _work_of(task: Task) -> Any:
    try:
        return parse_job(task.run)
    except CoordinationError:  # a function that a plan in Python contains
        return None


# --- several agents in one folder


def _in_one_folder(plan: Plan, works: Mapping[str, Any]) -> Iterator[PlanWarning]:
    if plan.concurrency.project == 1:
        return
    by_folder: dict[str, list[Task]] = {}
    for task in plan.tasks:
        if isinstance(works.get(task.key), AgentCall) and plan.checkout_of(task) == FOLDER:
            by_folder.setdefault(task.workdir or plan.defaults.workdir or "", []).append(task)
    for folder, agents in by_folder.items():
        together = _together(plan, agents) if len(agents) > 1 else []
        if together:
            where = f"the folder {folder}" if folder else "the project's folder"
            yield PlanWarning(
                WarningCode.SAME_FOLDER,
                f"{_name_some(together)} may work in {where} at the same time, and change each other's files",
                "Give each its own folder with checkout: git-worktree, or an order with needs",
                tuple(together),
            )


def _together(plan: Plan, agents: Sequence[Task]) -> list[str]:
    """Return the keys of some *agents* that may run at the same time, or an empty list.

    Each task gets the number of agents on its longest chain of needs. Tasks with the same number do not wait for each
    other.
    """
    mine = {task.key: task for task in agents}
    before: dict[str, int] = {}
    needs = {task.key: upstream_keys(task.needs) for task in plan.tasks}
    for key in topological_order(plan):
        before[key] = max((before[need] + (need in mine) for need in needs[key] if need in before), default=0)
    levels: dict[int, list[str]] = {}
    for key in mine:
        levels.setdefault(before.get(key, 0), []).append(key)
    for level in levels.values():
        if len(level) > 1 and not _exclude_each_other(plan, [mine[key] for key in level]):
            return level
    return []


def _exclude_each_other(plan: Plan, tasks: Sequence[Task]) -> bool:
    """Return whether a concurrency limit allows only one of them to run at a time."""
    keys = {task.concurrency_key for task in tasks}
    if len(keys) == 1 and None not in keys:
        return plan.concurrency.keys.get(str(next(iter(keys))), 1) <= 1
    names = {task.agent or plan.defaults.agent for task in tasks}
    return len(names) == 1 and plan.concurrency.agents.get(str(next(iter(names))), 2) <= 1


# --- programs and keys


def _missing_programs(
    plan: Plan, works: Mapping[str, Any], has_program: Callable[[str], bool]
) -> Iterator[PlanWarning]:
    users_of: dict[str, dict[str, None]] = {}  # the inner keys are those of the tasks
    for task in plan.tasks:
        for name in _programs(plan, task, works.get(task.key)):
            if name is not None:
                users_of.setdefault(name, {})[task.key] = None
    for name, users in users_of.items():
        if not has_program(name):
            yield PlanWarning(
                WarningCode.NO_PROGRAM,
                f"The program {name}, which {_name_some(users)} {'starts' if len(users) == 1 else 'start'}, is not"
                " installed here (PATH)",
                "Install it where the workers run",
                tuple(users),
                name,
            )


def _programs(plan: Plan, task: Task, work: Any) -> Iterator[str | None]:
    """Yield the programs that a task starts first, and None where that is not certain."""
    if isinstance(work, Shell) and "PATH" not in work.env:
        yield first_word(work.command)
    if isinstance(work, AgentCall) and "PATH" not in work.env:
        if work.command:
            yield work.command[0] if "{" not in work.command[0] and not _relative(work.command[0]) else None
        elif work.agent in AGENTS and work.agent != CUSTOM:
            yield work.agent
    checkout = plan.checkout_of(task)
    if checkout.prepare.setup:
        return  # it may install what the gates need
    gates = parse_gates(task.gates)
    if isinstance(work, AgentCall) or checkout.kind is CheckoutKind.GIT_WORKTREE:
        gates += parse_gates(plan.gates)
    for gate in gates:
        yield first_word(gate.run)


def _relative(program: str) -> bool:
    return "/" in program and not program.startswith("/")


@lru_cache(maxsize=256)
def first_word(command: str) -> str | None:
    """Return the program that a shell command begins with, or None where that is not certain."""
    match = _FIRST_WORD.match(command)
    if match is None or match[1] in _SHELL_WORDS or "{{" in command[: match.end() + 2]:
        return None
    if re.search(rf"(^|[;\n\s]){re.escape(match[1])}\s*\(\s*\)", command):
        return None  # a function that the command defines
    return match[1]


def _missing_keys(plan: Plan, works: Mapping[str, Any], variables: Collection[str]) -> Iterator[PlanWarning]:
    users_of: dict[str, list[str]] = {}
    for task in plan.tasks:
        work = works.get(task.key)
        if getattr(work, "account", None) or plan.defaults.account:
            continue  # the account may contain them
        for name in getattr(work, "secrets", ()):
            users_of.setdefault(name, []).append(task.key)
    for name, users in users_of.items():
        if name not in variables:
            yield PlanWarning(
                WarningCode.NO_KEY,
                f"The variable {name}, a secret of {_name_some(users)}, is not set here",
                "Set it in the environment of the workers before they start",
                tuple(users),
                name,
            )


def _name_some(keys: Collection[str]) -> str:
    shown = list(keys)[:_MOST_NAMED]
    if len(keys) > _MOST_NAMED:
        return f"{', '.join(shown)} and {plural(len(keys) - _MOST_NAMED, 'more task', 'more tasks')}"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
