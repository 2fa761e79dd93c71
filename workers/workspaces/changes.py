"""Collects what a job made in its worktree, whatever state it leaves: one commit, or one sentence that says why not.

What counts is what is in the folder, what the job committed on any branch or tag or on none, and what it stashed.
docs/workspaces.md has the table of states.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files
from workers.workspaces import head_history, stash
from workers.workspaces.git import LONG, Git, identity_of
from workers.workspaces.head_history import HeadHistory
from workers.workspaces.nested_repositories import NestedLocation, NotCollected, beside, check_gitlinks
from workers.workspaces.repository import Repository
from workers.workspaces.worktree import Snapshot, Worktree, message_of
from workers.workspaces.worktree_folder import (
    has_company,
    is_worktree_folder,
    names_of_records,
    place_of,
    take_away_others,
)

_SHORT = 12
_MOST_NAMED = 3
_OURS = "coord/"
_BREAKING = ("core.bare", "core.worktree")


@dataclass(frozen=True, slots=True)
class HeadBefore:
    """What was there when the job began: the size of HEAD's log, stashes, branches and tags, the configuration."""

    at: float  # seconds since 1970
    log: int
    stashes: frozenset[str]
    refs: dict[str, str]
    config: bytes
    excluded: bytes  # what the repository ignores everywhere
    records: frozenset[str]  # of worktrees


@dataclass(frozen=True, slots=True)
class CollectedChanges:
    """The commit that holds all that the job made, and what a person should know about how that came."""

    commit: str
    remarks: list[str] = field(default_factory=list)


def before(place: Worktree) -> HeadBefore:
    """Note what is there before the job begins."""
    refs = _refs(place.git)
    return HeadBefore(
        at=time.time(),
        log=head_history.log_size(place.record),
        stashes=frozenset(stash.entries(place.git, refs)),
        refs=refs,
        config=_shared(place.repository, "config"),
        excluded=_shared(place.repository, "info/exclude"),
        records=names_of_records(place.repository.common),
    )


def collect(place: Worktree, was: HeadBefore, claim: Claim) -> CollectedChanges:
    """One commit with all that the claimed task's job made since *was*.

    Raises NotCollected or Unresolved when that needs somebody's decision; what the job left is as it was then.
    """
    if gone := place.gone():
        raise NotCollected(gone)
    message, author = message_of(claim), identity_of(claim)["GIT_AUTHOR_EMAIL"]
    _check_operation(place)
    remarks = _config_remarks(place, was)
    refs = _refs(place.git)
    _check_branch(place, refs)
    past = head_history.read(place.record, was.log, place.start)
    stood = _head(place)
    onto = None if _is_on_its_history(place, stood) else _last_related(place, past)
    snapshot = place.commit(message, onto=onto)
    if onto is not None:
        _check_rest(place, onto, snapshot, stood)
        remarks.append(
            f"[merge] its branch had no history; what is in the folder counts as a change of {onto[:_SHORT]}"
        )
    head: str | None = snapshot.commit
    is_known = head == past.at and head not in {*past.made, place.start}
    if is_known and _author(place.git, snapshot.commit) != author:
        head = None  # it only looked at that
    elsewhere = _made_elsewhere(place, was, refs, past, author)
    alone = not has_company(place.worktree_folder.path, place.repository.common, author, since=was.at)
    others = _worktrees_beside(place, was, author=author) if alone else {}
    tips = [*_tips(place, was, refs, past), *snapshot.inside, *others.values(), *(elsewhere.values() if alone else ())]
    remarks += [] if alone else [_not_taken(ref, commit) for ref, commit in elsewhere.items()]
    if onto is not None and stood is not None:
        tips = [tip for tip in tips if not place.repository.contains(tip, stood)]
    final, brought = _joined(place, head, tips)
    remarks += [f"[merge] took {tip[:_SHORT]} too, which HEAD did not hold" for tip in brought]
    own = [commit for commit in reversed(stash.entries(place.git, refs)) if commit not in was.stashes]
    own = [commit for commit in own if stash.is_from(place, commit, past, author=author, alone=alone)]
    for commit in [*stash.autostash(place.record), *own]:
        merged = _with_stash(place, final, commit, message)
        remarks += [] if merged == final else [f"[merge] took the stash {commit[:_SHORT]} too"]
        final = merged
    remarks += _dropped(place, past, final)
    if final != place.start:
        check_gitlinks(place.git, place.start, final)
    place.settle()
    _take_back(place, refs, past, final)
    take_away_others(others, place.worktree_folder.root, place.repository.common)
    if final != snapshot.commit and _tree(place.git, final) != snapshot.tree:
        place.stand_at(final)
    stash.drop(place, own)
    return CollectedChanges(final, remarks)


def _worktrees_beside(place: Worktree, was: HeadBefore, *, author: str) -> dict[Path, str]:
    """Worktrees of the repository that the job has made elsewhere, with the commits that they stand at."""
    common = place.repository.common
    nested_in = NestedLocation(place.git, place.worktree_folder.path, common)
    found = {}
    for name in sorted(names_of_records(common) - was.records):
        record = common / "worktrees" / name
        path = place_of(record)
        if (
            path is None
            or path.is_relative_to(place.worktree_folder.path)
            or is_worktree_folder(path)
            or not path.is_dir()
        ):
            continue
        if head_history.begun_by(record) == author and (head := beside(nested_in, path)) is not None:
            found[path] = head
    return found


def _not_taken(ref: str, commit: str) -> str:
    return (
        f"[merge] did not take {commit[:_SHORT]} on {ref}: several jobs of its agent were at work, any may have made it"
    )


def _take_back(place: Worktree, refs: Mapping[str, str], past: HeadHistory, final: str) -> None:
    """Move the run's branch back when the job itself has moved it on: what gets there passes the gates first."""
    repository = place.repository
    head = refs.get(f"refs/heads/{repository.branch}")
    if head is None or head not in past.made:
        return
    line = place.git("rev-list", "--first-parent", head, limit=LONG).text.split()
    before_it = next((commit for commit in line if commit not in past.made), place.start)
    place.detach(final)
    repository.move(repository.branch, before_it, was=head)


def _check_operation(place: Worktree) -> None:
    """Raise NotCollected for a rebase, or a series of commits, that stopped: what is missing is not known."""
    record = place.record
    at = _head(place)
    for name, what in (("rebase-merge", "rebase"), ("rebase-apply", "rebase or git am")):
        if (record / name).exists():
            raise NotCollected(_stopped(place, what, at), commit=at)
    try:
        steps = [line for line in untrusted_files.read(record / "sequencer" / "todo").splitlines() if line.strip()]
    except OSError:
        return
    if len(steps) > 1:
        raise NotCollected(_stopped(place, "cherry-pick or revert of several commits", at), commit=at)


def _stopped(place: Worktree, what: str, at: str | None) -> str:
    return (
        f"a {what} has stopped halfway in {place.worktree_folder.path}, at {at[:_SHORT] if at else 'no commit'}: "
        "finish it (--continue) or give it up (--abort)"
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
    """Raise NotCollected for a branch of its own that has none of the files: as a change it would delete them all."""
    names = ("--name-only", "-z", "-r")
    there = place.git("ls-tree", *names, onto, limit=LONG).words
    gone = place.git("diff-tree", *names, "--no-renames", "--diff-filter=D", onto, snapshot.commit, limit=LONG).words
    if there and len(gone) == len(there):
        at = stood[:_SHORT] if stood else "no commit yet"
        raise NotCollected(
            f"{place.worktree_folder.path} is on a branch without history ({at}) that has none of the files of "
            f"{onto[:_SHORT]}: merging it would delete them all",
            commit=stood,
        )


def _is_on_its_history(place: Worktree, stood: str | None) -> bool:
    if stood is not None:
        return stood == place.start or _related(place.git, stood, place.start)
    # Somebody else has taken the task's branch away: that is no branch of the job's.
    return place.git("symbolic-ref", "--quiet", "HEAD").text == f"refs/heads/{place.repository.task_branch}"


def _last_related(place: Worktree, past: HeadHistory) -> str:
    """The last commit that HEAD stood at with a common history with where it began."""
    for commit in dict.fromkeys(reversed([*past.left, *past.places])):
        if commit.strip("0") and _related(place.git, commit, place.start):
            return commit
    return place.start


def _tips(place: Worktree, was: HeadBefore, refs: Mapping[str, str], past: HeadHistory) -> list[str]:
    """Commits of the job's on branches and tags, and those that HEAD departed from by a checkout."""
    tips = [commit for commit in past.left if commit in past.made]
    own = f"refs/heads/{place.repository.task_branch}"
    tips += [commit for ref, commit in _moved(was, refs, own).items() if ref == own or commit in past.made]
    return [tip for tip in dict.fromkeys(tips) if tip not in past.replaced]


def _made_elsewhere(
    place: Worktree, was: HeadBefore, refs: Mapping[str, str], past: HeadHistory, author: str
) -> dict[str, str]:
    """Branches and tags with commits of the job's agent that were not made in the worktree, say in one beside it."""
    seen = {*past.made, *past.places, *past.left, place.start}
    moved = _moved(was, refs, f"refs/heads/{place.repository.task_branch}")
    unknown = {ref: commit for ref, commit in moved.items() if commit not in seen}
    if not unknown:
        return {}
    asked = "".join(f"{commit}\n" for commit in unknown.values()).encode("ascii")
    said = place.git("log", "--no-walk", "--stdin", "--format=%H %ce", stdin=asked, limit=LONG).text
    own = {line.partition(" ")[0] for line in said.splitlines() if line.partition(" ")[2] == author}
    return {ref: commit for ref, commit in unknown.items() if commit in own}


def _moved(was: HeadBefore, refs: Mapping[str, str], own: str) -> dict[str, str]:
    """The branches and tags that are new or elsewhere since *was*; of those below ``coord/`` only the *own* one."""
    return {
        ref: commit
        for ref, commit in refs.items()
        if was.refs.get(ref) != commit
        and ref != stash.REF
        and (ref == own or not ref.startswith(f"refs/heads/{_OURS}"))
    }


def _joined(place: Worktree, head: str | None, tips: list[str]) -> tuple[str, list[str]]:
    """One commit that holds *head* and all of *tips*, and those of them that it did not hold before."""
    git = place.git
    final = head or place.start
    loose = [tip for tip in tips if not place.repository.contains(tip, final)]
    if not loose:
        return final, []
    brought = []
    for tip in git("merge-base", "--independent", *loose).text.split():
        if place.repository.contains(final, tip):
            final = tip
            brought.append(tip)
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
        if tree != _tree(git, final):
            final = git("commit-tree", tree, "-p", final, "-p", tip, "-m", f"Merge {tip[:_SHORT]}").text
            brought.append(tip)
    return final, brought


def _with_stash(place: Worktree, final: str, commit: str, message: str) -> str:
    """*final* with what is stashed as *commit*."""
    change = stash.as_change(place, commit)
    tree, conflicts = _merge_tree(place.git, final, change)
    if tree is None:
        raise NotCollected(
            f"the stash {commit[:_SHORT]}, made in {place.worktree_folder.path}, conflicts with what the worktree holds"
            f"{conflicts}: apply it, or drop it",
            commit=commit,
        )
    if tree == _tree(place.git, final):
        return final
    return place.git("commit-tree", tree, "-p", final, "-m", message).text


def _dropped(place: Worktree, past: HeadHistory, final: str) -> list[str]:
    """What the job threw away with ``git reset``: its decision where something else is left, else a NotCollected."""
    repository = place.repository
    remarks = []
    for commit in dict.fromkeys(past.dropped):
        if commit not in past.made or commit in past.replaced or repository.contains(commit, final):
            continue
        if place.git("for-each-ref", "--count=1", f"--contains={commit}").text:
            continue  # it is not lost
        tree, _ = _merge_tree(place.git, final, commit)
        if tree == _tree(place.git, final):
            continue
        if _tree(place.git, final) == _tree(place.git, place.start):
            raise NotCollected(
                f"the commit {commit[:_SHORT]}, made in {place.worktree_folder.path}, was dropped with git reset, and "
                "nothing else was changed: bring it back, or take it back with git revert if nothing should change",
                commit=commit,
            )
        remarks.append(f"[merge] left out {commit[:_SHORT]}, which the job dropped with git reset")
    return remarks


def _config_remarks(place: Worktree, was: HeadBefore) -> list[str]:
    """What changed in the configuration that all worktrees share; NotCollected when the checkout is unusable by it."""
    remarks = []
    if _shared(place.repository, "info/exclude") != was.excluded:
        path = place.repository.common / "info" / "exclude"
        remarks.append(f"[worktree] while it ran, {path} changed: what it names is not committed")
    now = _shared(place.repository, "config")
    if now == was.config:
        return remarks
    listed = [set(place.git("config", "--file", "-", "--list", "-z", stdin=text).words) for text in (was.config, now)]
    keys = sorted({word.partition("\n")[0] for word in listed[0] ^ listed[1]})
    path = place.repository.common / "config"
    for key in keys:
        if key in _BREAKING:
            raise NotCollected(f"{key} was changed in {path}, which breaks the repository's checkout: set it back")
    return [*remarks, *([f"[worktree] while it ran, {path} changed: {', '.join(keys)}"] if keys else [])]


def _shared(repository: Repository, name: str) -> bytes:
    """A file that all worktrees of the repository share."""
    try:
        return untrusted_files.read(repository.common / name)
    except OSError:
        return b""


def _refs(git: Git) -> dict[str, str]:
    """The commits of branches and tags, and of the stash."""
    form = "%(refname) %(objecttype)=%(objectname) %(*objecttype)=%(*objectname)"
    refs = {}
    said = git("for-each-ref", f"--format={form}", "refs/heads", "refs/tags", stash.REF, limit=LONG)
    for line in said.text.splitlines():
        name, *objects = line.split(" ")
        commits = [item.removeprefix("commit=") for item in objects if item.startswith("commit=")]
        if commits:
            refs[name] = commits[0]
    return refs


def _merge_tree(git: Git, ours: str, theirs: str) -> tuple[str | None, str]:
    """The tree of a merge; or None and the files in conflict, as a sentence goes on with them."""
    if not _related(git, ours, theirs):
        return None, ", with which it has no common history"
    said = git("merge-tree", "--write-tree", "--name-only", "-z", ours, theirs, limit=LONG, may_fail=True)
    tree, *others = said.out.split(b"\0")
    if said.code == 0:
        return tree.decode("ascii").strip(), ""
    paths = [os.fsdecode(path) for path in (others[: others.index(b"")] if b"" in others else others)]
    return None, f" in {', '.join(paths[:_MOST_NAMED])}"


def _related(git: Git, one: str, other: str) -> bool:
    return git("merge-base", one, other, may_fail=True).code == 0


def _tree(git: Git, commit: str) -> str:
    return git("rev-parse", f"{commit}^{{tree}}").text


def _author(git: Git, commit: str) -> str:
    """The e-mail address of who committed it."""
    return git("log", "-1", "--format=%ce", commit).text


def _head(place: Worktree) -> str | None:
    said = place.git("rev-parse", "--quiet", "--verify", "HEAD^{commit}", may_fail=True)
    return said.text if said.code == 0 else None
