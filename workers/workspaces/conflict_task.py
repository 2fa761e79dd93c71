"""Conflict tasks, in which an agent merges a change that conflicts with others.

The prompt states the purpose. The conflicts are added when an attempt starts, because others may have merged by then:
git's kinds of conflicts, and the commits and changes of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from coordination.base.wording import excerpt
from coordination.domain.jobs.checkouts import Checkout, CheckoutKind, HalfMerged, merge_key, parse_gates, run_branch
from coordination.domain.jobs.templates import escape_template
from coordination.domain.plans.plans import MAX_KEY, MAX_TITLE
from coordination.domain.tasks.attempts import Claim, DiscoveredTask
from workers.runners.output import clean_text
from workers.workspaces.git import Git, GitFailed
from workers.workspaces.merge_conflicts import MergeConflict
from workers.workspaces.merge_queue import MergeConflicted
from workers.workspaces.worktree import Unresolved, Worktree

ROUNDS = 3
"""How many times a change is merged again before a person has to."""

_SIDE = 6_000  # characters of each side's changes
_TASK = 3_000  # characters of the original prompt
_MOST_NAMED = 50
_MOST_COMMITS = 20
_SHORT = 12
_HOW = """\
Where a file has no conflict markers (it is binary, a link or a submodule, or one side deleted, renamed or replaced it),
the folder has the version of one side only. Decide, and show that you did: change, move or delete the file, or run
"git add PATH" to keep the version in the folder. A conflict that you leave unchanged counts as unresolved."""

_LEFT = """
The last attempt's folder was saved as commit {0}. Reuse what it had resolved: "git diff HEAD {0}" shows it,
"git checkout {0} -- PATH" copies a file from there.
"""


def make_conflict_task(
    claim: Claim, checkout: Checkout, commit: str, conflict: MergeConflicted, *, round_: int
) -> DiscoveredTask:
    """Return a task that merges *commit*, the change of *claim*, to the run's branch; the task of *claim* waits."""
    suffix = f"-merge-{claim.attempt}"  # attempt numbers are unique
    round_title = f" (round {round_} of {ROUNDS})" if round_ > 1 else ""
    task: dict[str, Any] = {
        "key": claim.key[: MAX_KEY - len(suffix)] + suffix,
        "title": f"Merge the change of {claim.key}{round_title}"[:MAX_TITLE],
        "run": _as_literals({**claim.work, "prompt": clean_text(_prompt(claim, commit, conflict))}),
        "agent": claim.agent,
        "workdir": claim.workdir,
        "timeout": _seconds(claim.timeout),
        "stall_timeout": _seconds(claim.stall_timeout),
        "max_attempts": max(claim.max_attempts, ROUNDS),
        "concurrency_key": merge_key(claim.run_id),  # one at a time, each on top of the merge before
        "checkout": Checkout(
            CheckoutKind.GIT_WORKTREE,
            keep_failed=checkout.keep_failed,
            merge=HalfMerged(commit, claim.key),
            prepare=checkout.prepare,
        ).to_json(),
        "gates": [gate.to_json() for gate in parse_gates(claim.options.get("gates"))],
        "supervised": False,  # the change itself was reviewed
    }
    fields = {name: value for name, value in task.items() if value not in (None, [])}
    return DiscoveredTask(fields, blocks_finder=True, by_system=True)


def _prompt(claim: Claim, commit: str, conflict: MergeConflicted) -> str:
    original = str(claim.work.get("prompt", ""))
    return f"""Two changes of this repository conflict. Merge them.

The folder you are in is a git worktree of the branch {run_branch(claim.run_id)}, which holds what other tasks
have done. The change of the task {excerpt(claim.key)} ({claim.title}), commit {commit[:_SHORT]}, is half merged.
It conflicted with {conflict.head[:_SHORT]} in:

{_list_conflicts(conflict.conflicts)}

Resolve every conflict so that the purpose of both sides is kept. Leave no conflict markers. Change nothing that the
merge does not need. Do not abort the merge, and switch to no other branch. The files in the folder are committed
for you.

{_HOW}

What the task was asked to do:

{_cut(original, _TASK)}
"""


def describe_conflict(worktree: Worktree, commit: str, carried: Mapping[str, Any]) -> str:
    """Return the end of the agent's prompt for *worktree*, into which *commit* is half merged."""
    snapshot = carried.get("left")
    reuse = _LEFT.format(str(snapshot)[:_SHORT]) if worktree.repository.has(snapshot) else ""
    git, branch, head, resolving = worktree.git, worktree.repository.branch, worktree.start, worktree.resolving
    paths = [path for each in resolving.conflicts for path in each.paths][:_MOST_NAMED]
    base = _git_output(git, "merge-base", head, commit).strip()
    messages = (
        "\n".join([text for each in resolving.conflicts for text in each.messages][:_MOST_NAMED]) or "(no message)"
    )
    return clean_text(f"""

## Current conflicts
HEAD is {head[:_SHORT]} of {branch}; commit {commit[:_SHORT]} is merged into it ("git show MERGE_HEAD"). Conflicts in:

{_list_conflicts(resolving.conflicts) or "- no file; see git's messages"}

Git's messages:

{messages}

Changes of the branch in these files:

{_commits(git, base, head, paths)}

{_diff(git, base, head, paths)}

Changes of the task in these files:

{_commits(git, base, commit, paths)}

{_diff(git, base, commit, paths)}
{reuse}""")


def explain_unresolved(error: Unresolved) -> tuple[str, str]:
    """Return the error and the feedback of an attempt that left conflicts."""
    why = clean_text(f"conflicts are left in {error}")
    return why, f"You were done, but {why}.\n{_HOW}"


def name_conflicts(conflicts: tuple[MergeConflict, ...]) -> str:
    """Return the first paths of the conflicts as a short text."""
    paths = list(dict.fromkeys(path for each in conflicts for path in each.paths[:1]))
    return clean_text(", ".join(paths[:3])) + (", …" if len(paths) > 3 else "")  # noqa: PLR2004


def _list_conflicts(conflicts: tuple[MergeConflict, ...]) -> str:
    lines = [f"- {', '.join(each.paths)} ({each.kind})" for each in conflicts[:_MOST_NAMED]]
    more = len(conflicts) - len(lines)
    return "\n".join([*lines, *([f"- and {more} more"] if more else [])])


def _commits(git: Git, before: str, after: str, paths: list[str]) -> str:
    if not before:
        return "(no common ancestor)"
    log = ("log", f"--max-count={_MOST_COMMITS}", "--no-color", "--format=- %h %an: %s", f"{before}..{after}", "--")
    return _git_output(git, *log, *paths).strip() or "(no commit)"


def _diff(git: Git, before: str, after: str, paths: list[str]) -> str:
    if not before:
        return "(no common ancestor)"
    arguments = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", before, after, "--", *paths)
    return _cut(_git_output(git, *arguments).strip(), _SIDE) or "(nothing that can be shown)"


def _git_output(git: Git, *arguments: str) -> str:
    try:
        return git(*arguments, may_fail=True).out.decode("utf-8", errors="replace")
    except GitFailed:
        return ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n… ({len(text) - most:,} characters left out)"


def _as_literals(value: Any) -> Any:
    """Return a rendered job with every text as a template that renders to the same text."""
    if isinstance(value, dict):
        return {name: _as_literals(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_literals(item) for item in value]
    return escape_template(value) if isinstance(value, str) else value


def _seconds(limit: timedelta | None) -> float | None:
    return None if limit is None else limit.total_seconds()
