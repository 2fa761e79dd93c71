"""Handles repositories inside a worktree: those that a job made become plain files, submodules must be published.

git would record the commit of such a repository instead of its files (a gitlink), and the commit would go with the
worktree.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.runners import untrusted_files
from workers.workspaces.git import LONG, Git, GitFailed
from workers.workspaces.worktree_folder import ASIDE

_GITLINK = "160000"
_SHORT = 12


class NotCollected(Exception):
    """What the job made cannot be brought to the run's branch; the sentence names the path and the commit."""

    def __init__(self, sentence: str, *, commit: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.commit = commit


@dataclass(frozen=True, slots=True)
class NestedLocation:
    """A worktree: ``git`` works in it, ``top`` is its folder, ``common`` where its repository keeps itself."""

    git: Git
    top: Path
    common: Path


@dataclass(frozen=True, slots=True)
class NestedRepository:
    """Whether there are repositories in a worktree, and the commits of its own repository's worktrees among them."""

    found: bool
    heads: list[str]


@dataclass(frozen=True, slots=True)
class NestedRepositories:
    """One repository below the worktree's top. ``path`` is relative to that, ``dot`` its ``.git``."""

    path: str
    dot: Path
    git: Git
    same: bool  # a worktree of the repository itself
    valid: bool

    @property
    def called(self) -> str:
        """What people call it."""
        return self.path or str(self.dot.parent)


def below(place: NestedLocation) -> list[NestedRepositories]:
    """The outermost repositories in the worktree that git does not ignore, submodules included."""
    top = place.top
    paths = []
    for folder, names, others in untrusted_files.walk(str(top)):
        if Path(folder) == top:
            names[:] = [name for name in names if name != ".git"]
        elif ".git" in names or ".git" in others:
            paths.append(os.path.relpath(folder, top))
            names.clear()
    if not paths:
        return []
    # It knows no literal paths; behind "./" none has another meaning.
    asked = b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
    git = place.git.at(top, GIT_LITERAL_PATHSPECS="0")
    ignored = {word[2:] for word in git("check-ignore", "-z", "--stdin", stdin=asked, may_fail=True).words}
    links = _gitlinks(place, paths)
    return [_nested(place, path) for path in sorted(paths) if path in links or path not in ignored]


@contextlib.contextmanager
def as_files(place: NestedLocation, *, checked: bool = True) -> Iterator[NestedRepository]:
    """For the block, repositories that the job made inside are folders like any other, so that git adds their files.

    What such a repository tracks is added also where the worktree ignores it. Worktrees of the same repository are left
    out. Raises NotCollected when one of them holds more than its files,
    unless not *checked*.
    """
    aside = place.top.with_name(place.top.name + ASIDE)
    moved: list[tuple[Path, Path]] = []
    tracked: list[str] = []
    inside: dict[str, str | None] = {}  # the commits of worktrees of the same repository, by their paths
    modules, seen = _modules(place), set[str]()
    if checked and (own := _in_place_of(place)) is not None:
        _check(own, _commit(own.git, "HEAD"), is_submodule=False)
    try:
        while found := [one for one in below(place) if one.path not in seen]:  # deeper ones appear in the next round
            for one in found:
                seen.add(one.path)
                head = _commit(one.git, "HEAD") if one.valid else None
                if checked and one.valid:
                    _check(one, head, is_submodule=one.path in modules)
                if one.path in modules:
                    continue
                if one.same:
                    inside[one.path] = head
                    continue
                if one.valid:
                    tracked += [f"{one.path}/{name}" for name in one.git("ls-files", "-z").words]
                place.git("update-index", "--force-remove", "--", one.path)
                aside.mkdir(exist_ok=True)
                target = aside / str(len(moved))
                one.dot.rename(target)
                moved.append((one.dot, target))
        yield NestedRepository(bool(seen), [head for head in inside.values() if head])
        if names := [name for name in tracked if _is_file(place.top / name)]:
            told = b"".join(os.fsencode(name) + b"\0" for name in names)
            place.git("update-index", "--add", "-z", "--stdin", stdin=told, limit=LONG)
        for path in inside:
            place.git("update-index", "--force-remove", "--", path)
    finally:
        _put_back(moved, aside)


def _is_file(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _put_back(moved: list[tuple[Path, Path]], aside: Path) -> None:
    for dot, target in reversed(moved):
        with contextlib.suppress(OSError):
            target.rename(dot)
    with contextlib.suppress(OSError):
        aside.rmdir()


def check_gitlinks(git: Git, before: str, after: str) -> None:
    """Raise NotCollected when *after* has a gitlink that *before* has not, and that is no submodule's."""
    words = git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", before, after).words
    for said, path in zip(words[::2], words[1::2], strict=False):
        _, mode, _, commit, *_ = said.split(" ")
        if mode == _GITLINK and path not in _paths_in(git, "--blob", f"{after}:.gitmodules"):
            raise NotCollected(
                f"{path} is recorded as the commit {commit[:_SHORT]} of another repository, which no repository has: "
                f"remove {path}/.git and add its files, or make it a submodule",
                commit=commit,
            )


def beside(place: NestedLocation, path: Path) -> str | None:
    """The commit that the repository's worktree *path* stands at; NotCollected when it has changes."""
    one = _nested(place, str(path))
    head = _commit(one.git, "HEAD") if one.valid else None
    if one.valid:
        _check_worktree(one, head)
    return head


def _in_place_of(place: NestedLocation) -> NestedRepositories | None:
    """The repository that a job has made in place of the worktree's link to its own."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        link = untrusted_files.read(place.top / ".git").decode().removeprefix("gitdir: ").strip()
        if Path(link).is_relative_to(place.common):
            return None
    one = _nested(place, "")
    return one if one.valid and not one.same else None


def _check(one: NestedRepositories, head: str | None, *, is_submodule: bool) -> None:
    if is_submodule:
        _check_submodule(one, head)
    elif one.same:
        _check_worktree(one, head)
    else:
        _check_repository(one, head)


def _check_submodule(one: NestedRepositories, head: str | None) -> None:
    if dirty := _changed(one.git):
        raise NotCollected(
            f"The submodule {one.path} (at {_short(head)}) has changes that are not committed there: {dirty}; commit "
            "and push them in the submodule, or undo them",
            commit=head,
        )
    if commit := _first(one.git, "--all", *(["HEAD"] if head else []), "--not", "--remotes", "--tags"):
        raise NotCollected(
            f"The submodule {one.path} has the commit {_short(commit)}, which would go with the worktree: push it to "
            "the submodule's remote",
            commit=commit,
        )


def _check_worktree(one: NestedRepositories, head: str | None) -> None:
    if dirty := _changed(one.git):
        raise NotCollected(
            f"{one.path} is a git worktree that the job made, at {_short(head)}, with changes that are not committed "
            f"there: {dirty}; commit them",
            commit=head,
        )


def _check_repository(one: NestedRepositories, head: str | None) -> None:
    if remote := _first(one.git, "--remotes"):
        raise NotCollected(
            f"{one.called} is a clone of another repository, at {_short(head or remote)}: remove it, let git ignore "
            "it, or add it as a submodule; to have its files in this repository, remove its .git",
            commit=head,
        )
    if commit := _first(one.git, "--all", *(["--not", "HEAD"] if head else [])):
        raise NotCollected(
            f"{one.called} is a repository of its own with the commit {_short(commit)}, which is not checked out "
            "there: merge it there, or remove that branch, tag or stash",
            commit=commit,
        )


def _nested(place: NestedLocation, path: str) -> NestedRepositories:
    folder = place.top / path
    dot = folder / ".git"
    git = place.git.at(folder, GIT_DIR=str(dot), GIT_WORK_TREE=str(folder))
    try:
        common = git("rev-parse", "--path-format=absolute", "--git-common-dir").text
    except GitFailed:
        return NestedRepositories(path, dot, git, same=False, valid=False)
    same = os.path.realpath(common) == os.path.realpath(place.common)
    return NestedRepositories(path, dot, git, same=same, valid=True)


def _gitlinks(place: NestedLocation, paths: list[str]) -> set[str]:
    words = place.git("ls-files", "--stage", "-z", "--", *paths, limit=LONG).words
    return {word.partition("\t")[2] for word in words if word.startswith(_GITLINK)}


def _modules(place: NestedLocation) -> set[str]:
    """The paths of the submodules that ``.gitmodules`` names in the worktree."""
    return _paths_in(place.git, "--file", ".gitmodules") if (place.top / ".gitmodules").exists() else set()


def _paths_in(git: Git, *source: str) -> set[str]:
    try:
        said = git("config", "-z", *source, "--get-regexp", r"^submodule\..*\.path$", may_fail=True)
    except GitFailed:  # there is no such file, or it cannot be read
        return set()
    return {word.partition("\n")[2] for word in said.words}


def _changed(git: Git) -> str:
    """Up to three of the paths that are changed, or nothing."""
    lines = git("status", "--porcelain", "-z", "--no-renames", limit=LONG).words
    return ", ".join(line[3:] for line in lines[:3])


def _first(git: Git, *revisions: str) -> str | None:
    return git("rev-list", "--max-count=1", *revisions, limit=LONG).text or None


def _commit(git: Git, name: str) -> str | None:
    said = git("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}", may_fail=True)
    return said.text if said.code == 0 and said.text else None


def _short(commit: str | None) -> str:
    return commit[:_SHORT] if commit else "no commit yet"
