"""Repositories inside a worktree: those that a job made are added as plain files, submodules must be pushed.

git would record the commit of such a repository (a gitlink) instead of its files, and the commit would be deleted with
the worktree.
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
    """The job's changes cannot be merged to the run's branch. The sentence names the path and the commit."""

    def __init__(self, sentence: str, *, commit: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.commit = commit


@dataclass(frozen=True, slots=True)
class NestedLocation:
    """A worktree: ``git`` works in it, ``top`` is its directory, ``common`` the git directory of its repository."""

    git: Git
    top: Path
    common: Path


@dataclass(frozen=True, slots=True)
class NestedSummary:
    """Whether a worktree contains repositories, and the commits of worktrees of the same repository among them."""

    any: bool
    heads: list[str]


@dataclass(frozen=True, slots=True)
class NestedRepository:
    """One repository below the worktree's top. ``path`` is relative to that, ``dot`` its ``.git``."""

    path: str
    dot: Path
    git: Git
    same: bool  # a worktree of the repository itself
    valid: bool

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.path or str(self.dot.parent)


def find_nested(place: NestedLocation) -> list[NestedRepository]:
    """Return the outermost repositories in the worktree that git does not ignore, including submodules."""
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
    # check-ignore has no literal paths; "./" prevents other interpretations.
    prefixed = b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
    git = place.git.at(top, GIT_LITERAL_PATHSPECS="0")
    ignored = {word[2:] for word in git("check-ignore", "-z", "--stdin", stdin=prefixed, may_fail=True).words}
    links = _gitlinks(place, paths)
    return [_open_nested(place, path) for path in sorted(paths) if path in links or path not in ignored]


@contextlib.contextmanager
def as_files(place: NestedLocation, *, checked: bool = True) -> Iterator[NestedSummary]:
    """Turn repositories that the job made into plain directories during the block, so that git adds their files.

    Files that such a repository tracks are added even if the worktree ignores them. Worktrees of the same repository
    are left out. If *checked*, raises NotCollected when a repository contains more than its files.
    """
    aside = place.top.with_name(place.top.name + ASIDE)
    moved: list[tuple[Path, Path]] = []
    tracked: list[str] = []
    inside: dict[str, str | None] = {}  # the commits of worktrees of the same repository, by path
    modules, seen = _modules(place), set[str]()
    if checked and (own := _in_place_of(place)) is not None:
        _check(own, own.git.head(), is_submodule=False)
    try:
        # Deeper ones appear in the next round.
        while new := [repo for repo in find_nested(place) if repo.path not in seen]:
            for repo in new:
                seen.add(repo.path)
                head = repo.git.head() if repo.valid else None
                if checked and repo.valid:
                    _check(repo, head, is_submodule=repo.path in modules)
                if repo.path in modules:
                    continue
                if repo.same:
                    inside[repo.path] = head
                    continue
                if repo.valid:
                    tracked += [f"{repo.path}/{name}" for name in repo.git("ls-files", "-z").words]
                place.git("update-index", "--force-remove", "--", repo.path)
                aside.mkdir(exist_ok=True)
                target = aside / str(len(moved))
                repo.dot.rename(target)
                moved.append((repo.dot, target))
        yield NestedSummary(bool(seen), [head for head in inside.values() if head])
        if names := [name for name in tracked if _is_file(place.top / name)]:
            paths = b"".join(os.fsencode(name) + b"\0" for name in names)
            place.git("update-index", "--add", "-z", "--stdin", stdin=paths, limit=LONG)
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
    """Raise NotCollected when *after* has a new gitlink that is not a submodule."""
    words = git("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", before, after).words
    for entry, path in zip(words[::2], words[1::2], strict=False):
        _, mode, _, commit, *_ = entry.split(" ")
        if mode == _GITLINK and path not in _paths_in(git, "--blob", f"{after}:.gitmodules"):
            raise NotCollected(
                f"{path} is recorded as the commit {commit[:_SHORT]} of another repository, which no repository has: "
                f"remove {path}/.git and add its files, or make it a submodule",
                commit=commit,
            )


def head_of_worktree(place: NestedLocation, path: Path) -> str | None:
    """Return the HEAD commit of the repository's worktree *path*. Raises NotCollected when it has changes."""
    repo = _open_nested(place, str(path))
    if not repo.valid:
        return None
    head = repo.git.head()
    _check_worktree(repo, head)
    return head


def _in_place_of(place: NestedLocation) -> NestedRepository | None:
    """Return the repository that a job has created in place of the worktree's link to its own, or None."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        link = untrusted_files.read(place.top / ".git").decode().removeprefix("gitdir: ").strip()
        if Path(link).is_relative_to(place.common):
            return None
    repo = _open_nested(place, "")
    return repo if repo.valid and not repo.same else None


def _check(repo: NestedRepository, head: str | None, *, is_submodule: bool) -> None:
    if is_submodule:
        _check_submodule(repo, head)
    elif repo.same:
        _check_worktree(repo, head)
    else:
        _check_repository(repo, head)


def _check_submodule(repo: NestedRepository, head: str | None) -> None:
    if dirty := _changed_paths(repo.git):
        raise NotCollected(
            f"The submodule {repo.path} (at {_short(head)}) has changes that are not committed there: {dirty}; commit "
            "and push them in the submodule, or undo them",
            commit=head,
        )
    if commit := _first(repo.git, "--all", *(["HEAD"] if head else []), "--not", "--remotes", "--tags"):
        raise NotCollected(
            f"The submodule {repo.path} has the commit {_short(commit)}, which would go with the worktree: push it to "
            "the submodule's remote",
            commit=commit,
        )


def _check_worktree(repo: NestedRepository, head: str | None) -> None:
    if dirty := _changed_paths(repo.git):
        raise NotCollected(
            f"{repo.path} is a git worktree that the job made, at {_short(head)}, with changes that are not committed "
            f"there: {dirty}; commit them",
            commit=head,
        )


def _check_repository(repo: NestedRepository, head: str | None) -> None:
    if remote := _first(repo.git, "--remotes"):
        raise NotCollected(
            f"{repo.name} is a clone of another repository, at {_short(head or remote)}: remove it, let git ignore "
            "it, or add it as a submodule; to have its files in this repository, remove its .git",
            commit=head,
        )
    if commit := _first(repo.git, "--all", *(["--not", "HEAD"] if head else [])):
        raise NotCollected(
            f"{repo.name} is a repository of its own with the commit {_short(commit)}, which is not checked out "
            "there: merge it there, or remove that branch, tag or stash",
            commit=commit,
        )


def _open_nested(place: NestedLocation, path: str) -> NestedRepository:
    folder = place.top / path
    dot = folder / ".git"
    git = place.git.at(folder, GIT_DIR=str(dot), GIT_WORK_TREE=str(folder))
    common = ""
    with contextlib.suppress(GitFailed):
        common = git("rev-parse", "--path-format=absolute", "--git-common-dir").text
    same = bool(common) and os.path.realpath(common) == os.path.realpath(place.common)
    return NestedRepository(path, dot, git, same=same, valid=bool(common))


def _gitlinks(place: NestedLocation, paths: list[str]) -> set[str]:
    words = place.git("ls-files", "--stage", "-z", "--", *paths, limit=LONG).words
    return {word.partition("\t")[2] for word in words if word.startswith(_GITLINK)}


def _modules(place: NestedLocation) -> set[str]:
    """Return the paths of the submodules in the worktree's ``.gitmodules``."""
    return _paths_in(place.git, "--file", ".gitmodules") if (place.top / ".gitmodules").exists() else set()


def _paths_in(git: Git, *source: str) -> set[str]:
    try:
        output = git("config", "-z", *source, "--get-regexp", r"^submodule\..*\.path$", may_fail=True)
    except GitFailed:  # there is no such file, or it cannot be read
        return set()
    return {word.partition("\n")[2] for word in output.words}


def _changed_paths(git: Git) -> str:
    """Return up to three changed paths as text."""
    lines = git("status", "--porcelain", "-z", "--no-renames", limit=LONG).words
    return ", ".join(line[3:] for line in lines[:3])


def _first(git: Git, *revisions: str) -> str | None:
    return git("rev-list", "--max-count=1", *revisions, limit=LONG).text or None


def _short(commit: str | None) -> str:
    return commit[:_SHORT] if commit else "no commit yet"
