"""Tasks in which an agent resolves the merge conflicts of its change.

The goal is in the task's prompt. The conflicts are added when an attempt begins, because others may have merged until
then: git's kinds of conflicts, and the commits and changes of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from coordination.base.wording import excerpt
from coordination.domain.jobs.checkouts import Checkout, CheckoutKind, Gate, HalfMerged, merge_key, run_branch
from coordination.domain.jobs.templates import escape_template
from coordination.domain.plans.plans import MAX_KEY, MAX_TITLE
from coordination.domain.tasks.attempts import Claim, DiscoveredTask, Outcome
from workers.runners.output import clean_text
from workers.workspaces.git import Git, GitFailed
from workers.workspaces.merge_conflicts import MergeConflict
from workers.workspaces.merge_queue import MergeConflicted
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Unresolved, Worktree

ROUNDS = 3
"""How often a change is merged again before a person has to decide."""

_SIDE = 6_000  # characters of each side's changes
_TASK = 3_000  # characters of the task's prompt
_MOST_NAMED = 50
_MOST_COMMITS = 20
_SHORT = 12
_HOW = """\
Where a file has no conflict markers (it is binary, a link or a submodule, or one side deleted, renamed or replaced it),
what is in the folder is one side's alone. Decide, and show that you did: change, move or delete the file, or run
"git add PATH" when what is in the folder is what should stay. What you leave as you find it counts as unresolved."""

_LEFT = """
What the last attempt left in its folder is commit {0}. Take over what it had resolved: "git diff HEAD {0}" shows it,
"git checkout {0} -- PATH" brings a file here as it was there.
"""


def merge_task(
    claim: Claim,
    checkout: Checkout,
    gates: tuple[Gate, ...],
    commit: str,
    found: MergeConflicted,
    *,
    round_: int,
) -> DiscoveredTask:
    """Return the task that merges *commit*, the claimed task's change. The claimed task waits for it."""
    name = f"-merge-{claim.attempt}"  # numbers of attempts are never used twice
    again = f" (round {round_} of {ROUNDS})" if round_ > 1 else ""
    task: dict[str, Any] = {
        "key": claim.key[: MAX_KEY - len(name)] + name,
        "title": f"Merge the change of {claim.key}{again}"[:MAX_TITLE],
        "run": _literally({**claim.work, "prompt": clean_text(_prompt(claim, commit, found))}),
        "agent": claim.agent,
        "workdir": claim.workdir,
        "timeout": _seconds(claim.timeout),
        "stall_timeout": _seconds(claim.stall_timeout),
        "max_attempts": max(claim.max_attempts, ROUNDS),
        "concurrency_key": merge_key(claim.run_id),  # one at a time, each on top of the previous merge
        "checkout": Checkout(
            CheckoutKind.GIT_WORKTREE,
            keep_failed=checkout.keep_failed,
            merge=HalfMerged(commit, claim.key),
            prepare=checkout.prepare,
        ).to_json(),
        "gates": [gate.to_json() for gate in gates],
        "supervised": False,  # the change was reviewed already
    }
    written = {name: value for name, value in task.items() if value not in (None, [])}
    return DiscoveredTask(written, blocks_finder=True, by_system=True)


def _prompt(claim: Claim, commit: str, found: MergeConflicted) -> str:
    asked = str(claim.work.get("prompt", ""))
    return f"""Two changes of this repository conflict, and you are to bring them together.

The folder you are in is a git worktree of the branch {run_branch(claim.run_id)}, which holds what other tasks
have done. The change of the task {excerpt(claim.key)} ({claim.title}), commit {commit[:_SHORT]}, is half merged.
When it was to be merged to {found.head[:_SHORT]}, it was in conflict in:

{_listed(found.conflicts)}

Resolve every conflict so that what both sides are for holds. Leave no conflict markers. Change nothing that the merge
does not need. Do not abort the merge, and switch to no other branch. What you leave in the folder is committed for you.

{_HOW}

What the task was asked to do:

{_cut(asked, _TASK)}
"""


def repeated(claim: Claim, why: str) -> tuple[Outcome, str, int | None]:
    """Return outcome, reason and count of conflicts in a row for a job without an agent, which runs again."""
    count = claim.carried_over.get("conflicts")
    times = count + 1 if isinstance(count, int) else 1
    if times > ROUNDS:
        return Outcome.FAILED, f"{why}, {times} times in a row", None
    return Outcome.DEFERRED, f"{why}; it runs again on top of that", times


def to_merge(repository: Repository, carried: Mapping[str, Any], commit: str) -> str:
    """Return the commit that a conflict task merges: its own earlier result if there is one, else *commit*."""
    resolved = carried.get("resolved")
    return str(resolved) if repository.has(resolved) and repository.contains(commit, str(resolved)) else commit


def again(branch: str, files: str, commit: str) -> dict[str, Any]:
    """Return the carried data for the next attempt when *commit*, the result of this one, is in conflict too."""
    said = f"While you resolved it, {branch} has moved on, and your result conflicts with it again, in {files}."
    return {"feedback": said, "merge": None, "work": None, "left": None, "resolved": commit}


def told(place: Worktree, commit: str, carried: Mapping[str, Any]) -> str:
    """Return the description of the conflicts in *place*, into which *commit* is half merged, for the prompt."""
    left = carried.get("left")
    taken = _LEFT.format(str(left)[:_SHORT]) if place.repository.has(left) else ""
    git, branch, head, resolving = place.git, place.repository.branch, place.start, place.resolving
    named = [path for one in resolving.conflicts for path in one.paths][:_MOST_NAMED]
    base = _said(git, "merge-base", head, commit).strip()
    said = [text for one in resolving.conflicts for text in one.messages][:_MOST_NAMED]
    git_says = "\n".join(said) or "(nothing more)"
    return clean_text(f"""

## What is in conflict now
HEAD is {head[:_SHORT]} of {branch}; what is merged into it is {commit[:_SHORT]} ("git show MERGE_HEAD"). In conflict:

{_listed(resolving.conflicts) or "- no file; see what git says"}

What git says:

{git_says}

What the branch has changed in these files:

{_commits(git, base, head, named)}

{_diff(git, base, head, named)}

What the task has changed in them:

{_commits(git, base, commit, named)}

{_diff(git, base, commit, named)}
{taken}""")


def unresolved(left: Unresolved) -> tuple[str, str]:
    """Return why an attempt with unresolved conflicts fails, and the feedback for the next one."""
    why = clean_text(f"conflicts are left in {left}")
    return why, f"You were done, but {why}.\n{_HOW}"


def in_conflict(conflicts: tuple[MergeConflict, ...]) -> str:
    """Return the first paths of conflicts as a short text."""
    paths = list(dict.fromkeys(path for one in conflicts for path in one.paths[:1]))
    return clean_text(", ".join(paths[:3])) + (", …" if len(paths) > 3 else "")  # noqa: PLR2004


def _listed(conflicts: tuple[MergeConflict, ...]) -> str:
    lines = [f"- {', '.join(one.paths)} ({one.kind})" for one in conflicts[:_MOST_NAMED]]
    more = len(conflicts) - len(lines)
    return "\n".join([*lines, *([f"- and {more} more"] if more else [])])


def _commits(git: Git, before: str, after: str, paths: list[str]) -> str:
    if not before:
        return "(the two have no common beginning)"
    log = ("log", f"--max-count={_MOST_COMMITS}", "--no-color", "--format=- %h %an: %s", f"{before}..{after}", "--")
    return _said(git, *log, *paths).strip() or "(no commit)"


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
    """Escape all texts of a job, whose templates are filled in already, so that they are not filled in again."""
    if isinstance(value, dict):
        return {name: _literally(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_literally(item) for item in value]
    return escape_template(value) if isinstance(value, str) else value


def _seconds(limit: timedelta | None) -> float | None:
    return None if limit is None else limit.total_seconds()
