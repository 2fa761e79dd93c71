"""Prepares a worktree before its job: copies files of the user's checkout and runs or reuses the setup command.

These files are never committed: those that git does not ignore are listed in an excludes file, which only the git
commands of this worktree and its job use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.jobs.preparation import (
    LOCK_FILES,
    MANIFESTS,
    NO_PREPARATION,
    Database,
    Preparation,
    port_variables,
)
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.events import EventType
from workers.runners import environment, untrusted_files, usage_file
from workers.runners.base import Control
from workers.runners.process import Launcher
from workers.runners.program import run_program
from workers.runners.side_command import run_side_command, short_name
from workers.workspaces import setup_cache
from workers.workspaces.git import LONG, GitFailed, GitInterrupted, identity_of
from workers.workspaces.setup_cache import SetupCache, is_inside, make_parents
from workers.workspaces.worktree import Worktree

SETUP_LIMIT = timedelta(minutes=30)
_EXCLUDES = "coordination-excludes"
_LAST_LINES = 20
_OF_REPOSITORY = ("local", "worktree")
_MOST_PATHS = 500  # of one cp
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\*?[ "})


class ResourceLender(Protocol):
    """Leases resources of this host to one attempt. Raises Unavailable when a retry may succeed, else Refused."""

    def ports(self, count: int) -> Sequence[int]:
        """Return free ports, leased until the attempt ends."""

    def database(self, database: Database) -> str:
        """Return the URL of a copy of *database*, which exists until ``release``."""

    def release(self) -> None:
        """Drop the copies."""


@dataclass(slots=True)
class PreparedWorktree:
    """Variables and resources of a worktree. The plan overrides ``variables``, but not ``own``. Close it at the end."""

    variables: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    _cache: SetupCache | None = None
    _lender: ResourceLender | None = None

    def add_resources(self, preparation: Preparation, lender: ResourceLender | None) -> None:
        """Lease the ports and the database of *preparation*. Raises Unavailable or Refused."""
        if lender is None or not (preparation.ports or preparation.database):
            return
        self._lender = lender
        self.variables |= port_variables(lender.ports(preparation.ports) if preparation.ports else ())
        if preparation.database is not None:
            self.own[preparation.database.variable] = lender.database(preparation.database)

    def in_folder(self, worktree: Worktree, claim: Claim) -> Claim:
        """Return *claim* with the folder of *worktree* and these variables."""
        work = {**claim.work, "env": {**self.variables, **claim.work.get("env", {}), **self.own}}
        if secrets := claim.work.get("secrets"):
            work["secrets"] = [name for name in secrets if name not in self.own]  # the copy overrides its original
        return replace(claim, workdir=worktree.folder, work=work)

    def keep(self, until: float) -> None:
        """Keep what the worktree links to *until* then (seconds since 1970), like the worktree."""
        if self._cache is not None:
            self._cache.touch(until)

    def close(self) -> None:
        """Release the resources. No process may use the worktree any more."""
        if self._lender is not None:
            self._lender.release()
        if self._cache is not None:
            self._cache.close()


@dataclass(frozen=True, slots=True)
class WorktreePreparation:
    """Prepares one worktree for one attempt."""

    worktree: Worktree
    claim: Claim
    preparation: Preparation
    launcher: Launcher
    control: Control

    @property
    def root(self) -> Path:
        """The folder of all worktrees, which has a folder for each run."""
        return self.worktree.worktree_folder.path.parents[1]

    def run(self, prepared: PreparedWorktree) -> None:
        """Prepare the worktree and add its resources to *prepared*.

        Raises Refused for files that cannot be copied or shared, GitFailed when the setup command or git fails,
        GitInterrupted, OSError.
        """
        if self.preparation == NO_PREPARATION:
            return
        what, top = self.preparation, self.worktree.worktree_folder.path
        paths = [self._copy_from_checkout(name) for name in what.copy]
        if what.setup is not None:
            share = [self._from_top(name) for name in what.share]
            prepared._cache = cache = setup_cache.acquire(self.root, self._digest(what.setup), self.control)  # noqa: SLF001
            if cache.about is None:
                entries = list(self._set_up(what.setup, paths, share))
                cache.fill(top, entries, share, self._copy)
            else:
                entries = cache.bring_into(top, share, self._copy)
                self.control.event(EventType.PROGRESS, {"setup": short_name(what.setup), "warm": True})
            paths += entries
        if paths:
            prepared.own = self._exclude()

    # --- copies of the user's files

    def _copy_from_checkout(self, name: str) -> str:
        """Copy a file or folder from the user's checkout; return its path in the worktree."""
        source = Path(str(self.claim.workdir)).resolve()
        for part in PurePosixPath(name).parts:
            source = source / part
            if source.is_symlink():
                raise Refused(
                    f"checkout.copy names {excerpt(name)}, and {source} is a link",
                    hint="Name the file by a path without links",
                )
        if not source.exists():
            raise Refused(
                f"checkout.copy names {excerpt(name)}, and there is no {source}",
                hint="Create it, or remove it from checkout.copy",
            )
        inside, top = self._from_top(name), self.worktree.worktree_folder.path
        target = top / inside
        if os.path.lexists(target):
            raise Refused(
                f"checkout.copy names {excerpt(name)}, which is committed, so the worktree has it already",
                hint="Remove it from checkout.copy",
            )
        make_parents(top, inside)
        try:
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, copy_function=untrusted_files.copy)
            else:
                untrusted_files.copy(str(source), str(target))
        except shutil.Error as error:
            first = error.args[0][0][2] if error.args and error.args[0] else error
            raise Refused(f"checkout.copy names {excerpt(name)}, which cannot be copied: {first}") from None
        return inside

    def _from_top(self, name: str) -> str:
        return str(PurePosixPath(self.worktree.repository.prefix, name))

    # --- the setup command

    def _digest(self, setup: str) -> str:
        """Return a digest of everything that the setup command's result depends on."""
        system = os.uname()
        parts = [
            [setup, sorted(self.preparation.share), self.worktree.repository.prefix],
            [str(self.worktree.repository.common), system.sysname, system.machine],
            [[str(path.relative_to(self.worktree.worktree_folder.path)), _hash(path)] for path in self._lock_files()],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _lock_files(self) -> list[Path]:
        """Return the named files; else lock files, else manifests, of the task's folder or the nearest above it."""
        folder, top = Path(self.worktree.folder), self.worktree.worktree_folder.path
        if self.preparation.lock:
            for name in self.preparation.lock:
                if not _is_file(folder / name):
                    raise Refused(
                        f"checkout.lock names {excerpt(name)}, which is not in the commit that the task starts from",
                        hint="Name committed files, or leave checkout.lock out",
                    )
            return [folder / name for name in self.preparation.lock]
        folders = [folder, *(parent for parent in folder.parents if parent.is_relative_to(top))]
        for names in (LOCK_FILES, MANIFESTS):
            for each in folders:
                if files := [each / name for name in names if _is_file(each / name)]:
                    return files
        return []

    def _set_up(self, setup: str, copied: Sequence[str], share: Sequence[str]) -> Iterator[str]:
        """Run the setup command; yield the paths of new files, without the *copied* ones."""
        with (
            environment.Scratch(self.control.scratch, self.claim) as scratch,
            usage_file.meter_side_command(scratch.costs, self.control) as poll,
        ):
            variables = environment.base_variables() | environment.attempt_variables(self.claim, scratch)
            run = partial(run_side_command, self.launcher, setup, self.claim, self.control)
            ran = run(variables=variables, folder=self.worktree.folder, timeout=SETUP_LIMIT, poll=poll)
        if ran.interruption is not None:
            raise GitInterrupted(ran.interruption)
        name = short_name(setup)
        self.control.event(EventType.PROGRESS, ran.event("setup", name))
        if ran.problem is not None:
            last_lines = "\n".join(ran.output.rstrip().splitlines()[-_LAST_LINES:])
            log = ran.log_of(f"setup {name}", last_lines)
            raise GitFailed(f"setup {name!r} failed: {ran.problem}", log=log)
        created = self.worktree.git("ls-files", "--others", "--directory", "-z", limit=LONG).words
        for name in share:
            self._check_created(name, created)
        for path in created:
            yield from self._without(path.rstrip("/"), copied)

    def _check_created(self, name: str, created: Sequence[str]) -> None:
        top = self.worktree.worktree_folder.path
        if not any(is_inside(name, path) for path in created) or not (top / name).exists():
            raise Refused(
                f"checkout.share names {excerpt(name)}, which the setup command did not create",
                hint="Name files that it creates and git does not track, such as .venv or node_modules",
            )
        if any((top / above).is_symlink() for above in PurePosixPath(name).parents):
            raise Refused(
                f"checkout.share names {excerpt(name)}, which is reached through a link",
                hint="Name it by a path without links",
            )

    def _without(self, path: str, copied: Sequence[str]) -> Iterator[str]:
        """Yield the parts of *path* that are not *copied* files."""
        if any(is_inside(path, name) for name in copied):
            return
        if not any(is_inside(name, path) for name in copied):
            yield path
            return
        for child in sorted(os.listdir(self.worktree.worktree_folder.path / path)):  # noqa: PTH208 - names
            yield from self._without(f"{path}/{child}", copied)

    def _copy(self, paths: Sequence[Path], folder: Path) -> None:
        """Copy *paths* to *folder* with all attributes; blocks are shared where the file system supports it."""
        with environment.Scratch(self.control.scratch, self.claim) as scratch:
            for start in range(0, len(paths), _MOST_PATHS):
                ran = run_program(
                    self.launcher,
                    ["cp", "-a", "--", *map(str, paths[start : start + _MOST_PATHS]), f"{folder}/"],
                    replace(self.claim, timeout=SETUP_LIMIT, stall_timeout=None),
                    self.control,
                    variables=environment.base_variables() | environment.attempt_variables(self.claim, scratch),
                    folder=str(self.worktree.worktree_folder.path),
                    feed=lambda _: None,
                    announced=False,
                    write=[os.path.realpath(self.root)],
                )
                if ran.interruption is not None:
                    raise GitInterrupted(ran.interruption)
                if ran.exit_code:
                    message = (ran.log.strip().splitlines() or ["no message"])[-1]
                    raise GitFailed(f"The files of the setup command cannot be copied: {message}")

    # --- excludes

    def _exclude(self) -> dict[str, str]:
        """Exclude the prepared files that git would commit; return the variables that make git use the excludes."""
        untracked = self.worktree.git(
            "ls-files", "--others", "--exclude-standard", "--directory", "-z", limit=LONG
        ).words
        if not untracked:
            return {}
        excludes = self.worktree.record / _EXCLUDES
        lines = [f"/{name.translate(_SPECIAL)}" for name in untracked if "\n" not in name]
        text = "\n".join([*self._user_excludes(), *lines, ""])
        # Write a new file: a job may have left a link there.
        untrusted_files.write_new(excludes, text.encode("utf-8", errors="surrogateescape"))
        self.worktree.git = self.worktree.git.at(self.worktree.worktree_folder.path, **_excludes_config(excludes, 0))
        return _excludes_config(excludes, int(self.claim.work.get("env", {}).get("GIT_CONFIG_COUNT") or 0))

    def _user_excludes(self) -> list[str]:
        """Return the lines of the user's excludes file, which ours replaces.

        Jobs can write the repository's configuration: a file that it names counts only where jobs can read.
        """
        answer = self.worktree.git("config", "--show-scope", "--type=path", "--get", "core.excludesFile", may_fail=True)
        scope, _, named = answer.text.partition("\t")
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - a text
        path = (self.worktree.worktree_folder.path / (named or f"{base}/git/ignore")).resolve()
        repository = self.worktree.repository
        folders = (repository.top, repository.common, self.worktree.worktree_folder.path)
        is_readable = any(path.is_relative_to(folder) for folder in folders if folder is not None)
        if scope in _OF_REPOSITORY and not is_readable:
            return []
        try:
            return untrusted_files.read(path).decode("utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return []


def _excludes_config(excludes: Path, number: int) -> dict[str, str]:
    """Return the variables that make *excludes* git's excludes file, after *number* other settings."""
    setting = {f"GIT_CONFIG_KEY_{number}": "core.excludesFile", f"GIT_CONFIG_VALUE_{number}": str(excludes)}
    return setting | {"GIT_CONFIG_COUNT": str(number + 1)}


def claim_in_worktree(worktree: Worktree, claim: Claim) -> Claim:
    """Return *claim* for the job itself: it commits as its agent, and its Python path is in the worktree."""
    own = identity_of(claim)
    own |= {f"GIT_COMMITTER_{what}": own[f"GIT_AUTHOR_{what}"] for what in ("NAME", "EMAIL")}
    work = {**claim.work, "env": own | claim.work["env"]}
    return replace(claim, work=work, python_path=tuple(map(worktree.counterpart, claim.python_path)))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _hash(path: Path) -> str:
    with untrusted_files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
