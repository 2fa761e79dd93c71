"""A change that cannot be merged by itself, as a task for the agent that made it: both sides, and what is wanted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from coordination.domain.attempts import Claim, Discovered
from coordination.domain.excerpts import excerpt
from coordination.domain.plans import MAX_KEY, MAX_TITLE
from coordination.domain.templates import literal
from coordination.domain.workspaces import Gate, HalfMerged, Workspace, WorkspaceKind
from workers.runners.output import clean_text
from workers.workspaces.git import Git, GitFailed
from workers.workspaces.landing import Conflicted

ROUNDS = 3
"""How often a change is merged anew before a person has to look at it."""

_SIDE = 6_000  # characters of each side's changes
_TASK = 3_000  # characters of what the task was
_MOST_NAMED = 50


def merge_task(
    claim: Claim,
    workspace: Workspace,
    gates: tuple[Gate, ...],
    *,
    git: Git,
    branch: str,
    commit: str,
    conflict: Conflicted,
    round_: int,
) -> Discovered:
    """The task that merges *commit*, the claimed task's change, to *branch*; the claimed one waits for it."""
    name = f"-merge-{claim.attempt}"  # numbers of attempts are never used twice
    again = f" (round {round_} of {ROUNDS})" if round_ > 1 else ""
    task: dict[str, Any] = {
        "key": claim.key[: MAX_KEY - len(name)] + name,
        "title": f"Merge the change of {claim.key}{again}"[:MAX_TITLE],
        "run": _literally({**claim.work, "prompt": clean_text(_prompt(claim, git, branch, commit, conflict))}),
        "agent": claim.agent,
        "workdir": claim.workdir,
        "timeout": _seconds(claim.timeout),
        "stall_timeout": _seconds(claim.stall_timeout),
        "max_attempts": max(claim.max_attempts, ROUNDS),
        "workspace": Workspace(
            WorkspaceKind.GIT_WORKTREE, keep_failed=workspace.keep_failed, merge=HalfMerged(commit, claim.key)
        ).to_json(),
        "gates": [gate.to_json() for gate in gates],
        "supervised": False,  # what it merges was judged
    }
    return Discovered({name: value for name, value in task.items() if value not in (None, [])}, first=True)


def _prompt(claim: Claim, git: Git, branch: str, commit: str, conflict: Conflicted) -> str:
    named = conflict.paths[:_MOST_NAMED]
    more = len(conflict.paths) - len(named)
    files = "\n".join([*(f"- {path}" for path in named), *([f"- and {more} more"] if more else [])])
    base = _said(git, "merge-base", conflict.head, commit).strip()
    theirs = _diff(git, base, conflict.head, named)
    ours = _diff(git, base, commit, named)
    asked = str(claim.work.get("prompt", ""))
    return f"""Two changes of this repository touch the same lines, and you are to bring them together.

The folder you are in is a git worktree of the branch {branch}, which holds what other tasks have done. The change of
the task {excerpt(claim.key)} ({claim.title}) is half merged into it: the files below are in conflict, and "git status"
shows more.

{files}

Resolve every conflict so that what both sides are for holds. Leave no conflict markers. Change nothing that the merge
does not need. Do not abort the merge, and switch to no other branch. What you leave in the folder is committed for you.

What the task was asked to do:

{_cut(asked, _TASK)}

What the branch has changed in these files:

{theirs}

What the task has changed in them:

{ours}
"""


def _diff(git: Git, before: str, after: str, paths: list[str]) -> str:
    if not before:
        return "(the two have no common beginning)"
    arguments = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", before, after, "--", *paths)
    return _cut(_said(git, *arguments).strip(), _SIDE) or "(nothing that can be shown)"


def _said(git: Git, *arguments: str) -> str:
    try:
        return git(*arguments, may_fail=True).out.decode("utf-8", errors="replace")
    except GitFailed:
        return ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n… ({len(text) - most:,} characters left out)"


def _literally(value: Any) -> Any:
    """The job, whose templates were filled in long ago, with every text as a template that says just that."""
    if isinstance(value, dict):
        return {name: _literally(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_literally(item) for item in value]
    return literal(value) if isinstance(value, str) else value


def _seconds(limit: timedelta | None) -> float | None:
    return None if limit is None else limit.total_seconds()
