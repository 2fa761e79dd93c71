"""Collect the changes of a job from its worktree into one commit, or raise a sentence that says why that fails.

Changes are the files in the directory, commits on any branch or tag or on none, and stashes. docs/workspaces.md has the
table of states.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files
from workers.workspaces import head_history, stash
from workers.workspaces.git import LONG, Git, identity_of, ids_in
from workers.workspaces.head_history import HeadHistory
from workers.workspaces.nested_repositories import NestedLocation, NotCollected, check_gitlinks, head_of_worktree
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Snapshot, Worktree, message_of
from workers.workspaces.worktree_folder import (
    delete_others,
    has_other_attempts,
    is_worktree_folder,
    place_of,
    record_names,
)

_SHORT = 12
_MOST_NAMED = 3
_OURS = "coord/"
_BREAKING = ("core.bare", "core.worktree")


@dataclass(frozen=True, slots=True)
class HeadBefore:
    """The state of the repository before the job: size of HEAD's log, stashes, branches and tags, configuration."""

    at: float  # seconds since 1970
    log: int
    stashes: frozenset[str]
    refs: dict[str, str]
    config: bytes
    excluded: bytes  # the content of info/exclude
    records: frozenset[str]  # of worktrees


@dataclass(frozen=True, slots=True)
class CollectedChanges:
    """The commit with all changes of the job, and remarks for people about how it was made."""

    commit: str
    remarks: list[str] = field(default_factory=list)


def record_state(place: Worktree) -> HeadBefore:
    """Record the state before the job begins."""
    refs = _refs(place.git)
    return HeadBefore(
        at=time.time(),
        log=head_history.log_size(place.record),
        stashes=frozenset(stash.entries(place.git, refs)),
        refs=refs,
        config=_read_shared(place.repository, "config"),
        excluded=_read_shared(place.repository, "info/exclude"),
        records=record_names(place.repository.common),
    )


def collect(place: Worktree, was: HeadBefore, claim: Claim) -> CollectedChanges:
    """Return one commit with all changes that the job made since *was*.

    Raises NotCollected or Unresolved, with the worktree unchanged, when a decision is needed.
    """
    if missing := place.find_missing():
        raise NotCollected(missing)
    message, author = message_of(claim), identity_of(claim)["GIT_AUTHOR_EMAIL"]
    _check_operation(place)
    remarks = _config_remarks(place, was)
    refs = _refs(place.git)
    _check_branch(place, refs)
    past = head_history.read(place.record, was.log, place.start)
    stood = place.git.head()
    onto = None if _is_on_its_history(place, stood) else _last_related(place, past)
    snapshot = place.commit(message, onto=onto)
    if onto is not None:
        _check_rest(place, onto, snapshot, stood)
        remarks.append(
            f"[merge] its branch had no history; what is in the folder counts as a change of {onto[:_SHORT]}"
        )
    head: str | None = snapshot.commit
    is_known = head == past.at and head not in {*past.created, place.start}
    if is_known and place.git("log", "-1", "--format=%ce", snapshot.commit).text != author:
        head = None  # the job only checked out that commit
    elsewhere = _made_elsewhere(place, was, refs, past, author)
    alone = not has_other_attempts(place.worktree_folder.path, place.repository.common, author, since=was.at)
    others = _worktrees_beside(place, was, author=author) if alone else {}
    tips = [*_tips(place, was, refs, past), *snapshot.inside, *others.values(), *(elsewhere.values() if alone else ())]
    several = "several jobs of its agent were at work, any may have made it"
    skipped = {} if alone else elsewhere
    remarks += [f"[merge] did not take {commit[:_SHORT]} on {ref}: {several}" for ref, commit in skipped.items()]
    if onto is not None and stood is not None:
        tips = [tip for tip in tips if not place.repository.contains(tip, stood)]
    final, merged_tips = _merge_tips(place, head, tips)
    remarks += [f"[merge] took {tip[:_SHORT]} too, which HEAD did not hold" for tip in merged_tips]
    own = [commit for commit in reversed(stash.entries(place.git, refs)) if commit not in was.stashes]
    own = [commit for commit in own if stash.is_from(place, commit, past, author=author, alone=alone)]
    for commit in [*ids_in(place.record / "MERGE_AUTOSTASH"), *own]:
        merged = _with_stash(place, final, commit, message)
        remarks += [] if merged == final else [f"[merge] took the stash {commit[:_SHORT]} too"]
        final = merged
    remarks += _check_dropped(place, past, final)
    if final != place.start:
        check_gitlinks(place.git, place.start, final)
    place.settle()
    _reset_run_branch(place, refs, past, final)
    delete_others(others, place.worktree_folder.root, place.repository.common)
    if final != snapshot.commit and place.git.tree_of(final) != snapshot.tree:
        place.stand_at(final)
    stash.drop(place, own)
    return CollectedChanges(final, remarks)


def _worktrees_beside(place: Worktree, was: HeadBefore, *, author: str) -> dict[Path, str]:
    """Return worktrees of the repository that the job has made elsewhere, with their HEAD commits."""
    common = place.repository.common
    nested_in = NestedLocation(place.git, place.worktree_folder.path, common)
    heads = {}
    for name in sorted(record_names(common) - was.records):
        record = common / "worktrees" / name
        path = place_of(record)
        if path is None or path.is_relative_to(nested_in.top) or is_worktree_folder(path) or not path.is_dir():
            continue
        if head_history.created_by(record) == author and (head := head_of_worktree(nested_in, path)) is not None:
            heads[path] = head
    return heads


def _reset_run_branch(place: Worktree, refs: Mapping[str, str], past: HeadHistory, final: str) -> None:
    """Move the run's branch back if the job has moved it, because changes must pass the gates first."""
    repository = place.repository
    head = refs.get(f"refs/heads/{repository.branch}")
    if head is None or head not in past.created:
        return
    line = place.git("rev-list", "--first-parent", head, limit=LONG).text.split()
    before_it = next((commit for commit in line if commit not in past.created), place.start)
    place.detach(final)
    repository.move(repository.branch, before_it, was=head)


def _check_operation(place: Worktree) -> None:
    """Raise NotCollected for a stopped rebase or series of commits, because its missing part is unknown."""
    record, steps = place.record, list[bytes]()
    with contextlib.suppress(OSError):
        steps = [line for line in untrusted_files.read(record / "sequencer" / "todo").splitlines() if line.strip()]
    for is_stopped, what in (
        ((record / "rebase-merge").exists(), "rebase"),
        ((record / "rebase-apply").exists(), "rebase or git am"),
        (len(steps) > 1, "cherry-pick or revert of several commits"),
    ):
        if is_stopped:
            at = place.git.head()
            raise NotCollected(
                f"a {what} has stopped halfway in {place.worktree_folder.path}, at {at[:_SHORT] if at else 'no commit'}"
                ": finish it (--continue) or give it up (--abort)",
                commit=at,
            )


def _check_branch(place: Worktree, refs: Mapping[str, str]) -> None:
    repository = place.repository
    head = refs.get(f"refs/heads/{repository.branch}")
    if head not in (None, place.start) and not repository.contains(place.start, head):
        raise NotCollected(
            f"the branch {repository.branch} was moved from {place.start[:_SHORT]} to {head[:_SHORT]}, which drops "
            f"what others have merged: git update-ref refs/heads/{repository.branch} {place.start} brings it back",
            commit=place.start,
        )


def _check_rest(place: Worktree, onto: str, snapshot: Snapshot, stood: str | None) -> None:
    """Raise NotCollected for an orphan branch that has none of the files: as a change it would delete them all."""
    names = ("--name-only", "-z", "-r")
    files = place.git("ls-tree", *names, onto, limit=LONG).words
    deleted = place.git("diff-tree", *names, "--no-renames", "--diff-filter=D", onto, snapshot.commit, limit=LONG).words
    if files and len(deleted) == len(files):
        at = stood[:_SHORT] if stood else "no commit yet"
        raise NotCollected(
            f"{place.worktree_folder.path} is on a branch without history ({at}) that has none of the files of "
            f"{onto[:_SHORT]}: merging it would delete them all",
            commit=stood,
        )


def _is_on_its_history(place: Worktree, stood: str | None) -> bool:
    if stood is not None:
        return stood == place.start or _is_related(place.git, stood, place.start)
    # HEAD names the task's branch, which someone else deleted: not an orphan branch of the job.
    return place.git("symbolic-ref", "--quiet", "HEAD").text == f"refs/heads/{place.repository.task_branch}"


def _last_related(place: Worktree, past: HeadHistory) -> str:
    """Return the last commit of HEAD that has a common history with the start."""
    for commit in dict.fromkeys(reversed([*past.departed, *past.places])):
        if commit.strip("0") and _is_related(place.git, commit, place.start):
            return commit
    return place.start


def _tips(place: Worktree, was: HeadBefore, refs: Mapping[str, str], past: HeadHistory) -> list[str]:
    """Return the job's commits on branches and tags, and those that a checkout left."""
    tips = [commit for commit in past.departed if commit in past.created]
    own = f"refs/heads/{place.repository.task_branch}"
    tips += [commit for ref, commit in _find_moved(was, refs, own).items() if ref == own or commit in past.created]
    return [tip for tip in dict.fromkeys(tips) if tip not in past.replaced]


def _made_elsewhere(
    place: Worktree, was: HeadBefore, refs: Mapping[str, str], past: HeadHistory, author: str
) -> dict[str, str]:
    """Return branches and tags with commits that the job's agent made outside the worktree, for example in another."""
    seen = {*past.created, *past.places, *past.departed, place.start}
    moved = _find_moved(was, refs, f"refs/heads/{place.repository.task_branch}")
    unknown = {ref: commit for ref, commit in moved.items() if commit not in seen}
    if not unknown:
        return {}
    commits = "".join(f"{commit}\n" for commit in unknown.values()).encode("ascii")
    committers = place.git("log", "--no-walk", "--stdin", "--format=%H %ce", stdin=commits, limit=LONG).text
    own = {line.partition(" ")[0] for line in committers.splitlines() if line.partition(" ")[2] == author}
    return {ref: commit for ref, commit in unknown.items() if commit in own}


def _find_moved(was: HeadBefore, refs: Mapping[str, str], own: str) -> dict[str, str]:
    """Return the branches and tags that were created or moved since *was*; below ``coord/`` only the *own* one."""
    return {
        ref: commit
        for ref, commit in refs.items()
        if was.refs.get(ref) != commit
        and ref != stash.REF
        and (ref == own or not ref.startswith(f"refs/heads/{_OURS}"))
    }


def _merge_tips(place: Worktree, head: str | None, tips: list[str]) -> tuple[str, list[str]]:
    """Return one commit that contains *head* and *tips*, and those of *tips* that *head* did not contain."""
    git = place.git
    final = head or place.start
    loose = [tip for tip in tips if not place.repository.contains(tip, final)]
    if not loose:
        return final, []
    merged_tips = []
    for tip in git("merge-base", "--independent", *loose).text.split():
        if place.repository.contains(final, tip):
            final = tip
            merged_tips.append(tip)
            continue
        tree, conflicts = _merge_tree(git, final, tip)
        if tree is None:
            refs = git("for-each-ref", "--format=%(refname:short)", f"--points-at={tip}").text.split()
            where = f" on {refs[0]}" if refs else ""
            raise NotCollected(
                f"the commit {tip[:_SHORT]}{where} is not in HEAD ({final[:_SHORT]}) and conflicts with it{conflicts}: "
                "merge it, or remove it",
                commit=tip,
            )
        if tree != git.tree_of(final):
            final = git("commit-tree", tree, "-p", final, "-p", tip, "-m", f"Merge {tip[:_SHORT]}").text
            merged_tips.append(tip)
    return final, merged_tips


def _with_stash(place: Worktree, final: str, commit: str, message: str) -> str:
    """Return *final* with the stash *commit* applied."""
    change = stash.as_change(place, commit)
    tree, conflicts = _merge_tree(place.git, final, change)
    if tree is None:
        raise NotCollected(
            f"the stash {commit[:_SHORT]}, made in {place.worktree_folder.path}, conflicts with what the worktree holds"
            f"{conflicts}: apply it, or drop it",
            commit=commit,
        )
    if tree == place.git.tree_of(final):
        return final
    return place.git("commit-tree", tree, "-p", final, "-m", message).text


def _check_dropped(place: Worktree, past: HeadHistory, final: str) -> list[str]:
    """Return remarks on commits that the job dropped with ``git reset``. Raises NotCollected if no change is left."""
    repository = place.repository
    remarks = []
    for commit in dict.fromkeys(past.dropped):
        if commit not in past.created or commit in past.replaced or repository.contains(commit, final):
            continue
        if place.git("for-each-ref", "--count=1", f"--contains={commit}").text:
            continue  # another ref contains it
        tree, _ = _merge_tree(place.git, final, commit)
        if tree == place.git.tree_of(final):
            continue
        if place.git.tree_of(final) == place.git.tree_of(place.start):
            raise NotCollected(
                f"the commit {commit[:_SHORT]}, made in {place.worktree_folder.path}, was dropped with git reset, and "
                "nothing else was changed: bring it back, or take it back with git revert if nothing should change",
                commit=commit,
            )
        remarks.append(f"[merge] left out {commit[:_SHORT]}, which the job dropped with git reset")
    return remarks


def _config_remarks(place: Worktree, was: HeadBefore) -> list[str]:
    """Return remarks on changes of the shared configuration. Raises NotCollected if they break the checkout."""
    remarks = []
    if _read_shared(place.repository, "info/exclude") != was.excluded:
        path = place.repository.common / "info" / "exclude"
        remarks.append(f"[worktree] while it ran, {path} changed: what it names is not committed")
    now = _read_shared(place.repository, "config")
    if now == was.config:
        return remarks
    listed = [set(place.git("config", "--file", "-", "--list", "-z", stdin=text).words) for text in (was.config, now)]
    keys = sorted({word.partition("\n")[0] for word in listed[0] ^ listed[1]})
    path = place.repository.common / "config"
    for key in keys:
        if key in _BREAKING:
            raise NotCollected(f"{key} was changed in {path}, which breaks the repository's checkout: set it back")
    return [*remarks, *([f"[worktree] while it ran, {path} changed: {', '.join(keys)}"] if keys else [])]


def _read_shared(repository: Repository, name: str) -> bytes:
    """Read a file that all worktrees of the repository share."""
    try:
        return untrusted_files.read(repository.common / name)
    except OSError:
        return b""


def _refs(git: Git) -> dict[str, str]:
    """Return the commits of branches and tags, and of the stash."""
    form = "%(refname) %(objecttype)=%(objectname) %(*objecttype)=%(*objectname)"
    refs = {}
    output = git("for-each-ref", f"--format={form}", "refs/heads", "refs/tags", stash.REF, limit=LONG)
    for line in output.text.splitlines():
        name, *objects = line.split(" ")
        commits = [item.removeprefix("commit=") for item in objects if item.startswith("commit=")]
        if commits:
            refs[name] = commits[0]
    return refs


def _merge_tree(git: Git, ours: str, theirs: str) -> tuple[str | None, str]:
    """Return the tree of a merge, or None and the end of a sentence that names the files in conflict."""
    if not _is_related(git, ours, theirs):
        return None, ", with which it has no common history"
    output = git("merge-tree", "--write-tree", "--name-only", "-z", ours, theirs, limit=LONG, may_fail=True)
    tree, *others = output.out.split(b"\0")
    if output.code == 0:
        return tree.decode("ascii").strip(), ""
    paths = [os.fsdecode(path) for path in (others[: others.index(b"")] if b"" in others else others)]
    return None, f" in {', '.join(paths[:_MOST_NAMED])}"


def _is_related(git: Git, first: str, second: str) -> bool:
    return git("merge-base", first, second, may_fail=True).code == 0
