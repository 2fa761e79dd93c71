"""Prepare a worktree before its job begins: copy files of the user's checkout, run a setup command.

The added files are never committed: those that git does not ignore are excluded by an excludes file that only this
worktree's git commands and its job use.
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
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self

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
_AT_ONCE = 500  # paths of one cp
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\*?[ "})


class Lends(Protocol):
    """What this machine lends to one attempt. Raises Unavailable for what may be possible later, else Refused."""

    def ports(self, count: int) -> Sequence[int]:
        """Return free ports, lent until the attempt ends."""

    def database(self, wanted: Database) -> str:
        """Return the URL of a copy of a database, lent until it is given back."""

    def give_back(self) -> None:
        """Drop the copies."""


@dataclass(slots=True)
class PreparedWorktree:
    """The resources of a worktree. The plan's variables override ``variables`` but not ``own``. Close it at the end."""

    variables: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    _warm: SetupCache | None = None
    _lends: Lends | None = None

    def lend(self, what: Preparation, lends: Lends | None) -> None:
        """Lease the ports and the database of the job. Raises Unavailable or Refused."""
        if lends is None or not (what.ports or what.database):
            return
        self._lends = lends
        self.variables |= port_variables(lends.ports(what.ports) if what.ports else ())
        if what.database is not None:
            self.own[what.database.variable] = lends.database(what.database)

    def in_folder(self, place: Worktree, claim: Claim) -> Claim:
        """Return *claim* for what runs in *place*, with these variables."""
        work = {**claim.work, "env": {**self.variables, **claim.work.get("env", {}), **self.own}}
        if secrets := claim.work.get("secrets"):
            work["secrets"] = [name for name in secrets if name not in self.own]  # a copy goes before its original
        return replace(claim, workdir=place.folder, work=work)

    def keep(self, until: float) -> None:
        """Keep what the worktree links to as long as the worktree, until then (seconds since 1970)."""
        if self._warm is not None:
            self._warm.touch(until)

    def close(self) -> None:
        """Release the resources."""
        if self._lends is not None:
            self._lends.give_back()
        if self._warm is not None:
            self._warm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class WorktreePreparation:
    """Prepares one worktree for one attempt."""

    place: Worktree
    claim: Claim
    what: Preparation
    launcher: Launcher
    control: Control

    @property
    def root(self) -> Path:
        """The directory of all worktrees, with one directory per run."""
        return self.place.worktree_folder.path.parents[1]

    def run(self, ready: PreparedWorktree) -> None:
        """Prepare the worktree, and record in *ready* what has to be released.

        Raises Refused for files that cannot be added, GitFailed when the setup command or git fails, GitInterrupted,
        OSError.
        """
        if self.what == NO_PREPARATION:
            return
        what, top = self.what, self.place.worktree_folder.path
        brought = [self._copied(name) for name in what.copy]
        if what.setup is not None:
            share = [self._from_top(name) for name in what.share]
            ready._warm = found = setup_cache.acquire(self.root, self._digest(what.setup), self.control)  # noqa: SLF001
            if found.about is None:
                entries = list(self._set_up(what.setup, brought, share))
                found.fill(top, entries, share, self._copy)
            else:
                entries = found.bring_into(top, share, self._copy)
                self.control.event(EventType.PROGRESS, {"setup": short_name(what.setup), "warm": True})
            brought += entries
        if brought:
            ready.own = self._exclude()

    # --- copies of the user's files

    def _copied(self, name: str) -> str:
        """Copy a file or directory from the user's checkout. Return its path relative to the worktree's top."""
        source = Path(str(self.claim.workdir)).resolve()
        for part in PurePosixPath(name).parts:
            source = source / part
            if source.is_symlink():
                raise Refused(
                    f"checkout.copy names {excerpt(name)}, and {source} is a link",
                    hint="Name the file itself, by a path without links",
                )
        if not source.exists():
            raise Refused(
                f"checkout.copy names {excerpt(name)}, and there is no {source}",
                hint="Make it, or take it out of checkout.copy",
            )
        inside, top = self._from_top(name), self.place.worktree_folder.path
        target = top / inside
        if os.path.lexists(target):
            raise Refused(
                f"checkout.copy names {excerpt(name)}, which is committed, so the worktree has it already",
                hint="Take it out of checkout.copy",
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
        return str(PurePosixPath(self.place.repository.prefix, name))

    # --- the setup command

    def _digest(self, setup: str) -> str:
        """Return a digest of all that the result of the setup command depends on."""
        system = os.uname()
        parts = [
            [setup, sorted(self.what.share), self.place.repository.prefix],
            [str(self.place.repository.common), system.sysname, system.machine],
            [[str(path.relative_to(self.place.worktree_folder.path)), _hash(path)] for path in self._lock_files()],
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def _lock_files(self) -> list[Path]:
        """Return the named files, or lock files in the task's directory or the nearest parent, or manifests there."""
        folder, top = Path(self.place.folder), self.place.worktree_folder.path
        if self.what.lock:
            for name in self.what.lock:
                if not _is_file(folder / name):
                    raise Refused(
                        f"checkout.lock names {excerpt(name)}, and the commit that the task begins at has no such file",
                        hint="Name committed files, or leave checkout.lock out",
                    )
            return [folder / name for name in self.what.lock]
        above = [folder, *(place for place in folder.parents if place.is_relative_to(top))]
        for known in (LOCK_FILES, MANIFESTS):
            for place in above:
                if found := [place / name for name in known if _is_file(place / name)]:
                    return found
        return []

    def _set_up(self, setup: str, brought: Sequence[str], share: Sequence[str]) -> Iterator[str]:
        """Run the command. Yield the paths that it has created."""
        with (
            environment.Scratch(self.control.scratch, self.claim) as scratch,
            usage_file.metered(scratch.costs, self.control) as glance,
        ):
            ran = run_side_command(
                self.launcher,
                setup,
                self.claim,
                self.control,
                variables=environment.inherited() | environment.of_attempt(self.claim, scratch),
                folder=self.place.folder,
                timeout=SETUP_LIMIT,
                glance=glance,
            )
        if ran.interruption is not None:
            raise GitInterrupted(ran.interruption)
        name = short_name(setup)
        self.control.event(EventType.PROGRESS, ran.event("setup", name))
        if ran.problem is not None:
            last_lines = "\n".join(ran.output.rstrip().splitlines()[-_LAST_LINES:])
            log = ran.log_of(f"setup {name}", last_lines)
            raise GitFailed(f"setup {name!r} failed: {ran.problem}", log=log)
        made = self.place.git("ls-files", "--others", "--directory", "-z", limit=LONG).words
        for name in share:
            self._check_made(name, made)
        for path in made:
            yield from self._without(path.rstrip("/"), brought)

    def _check_made(self, name: str, made: Sequence[str]) -> None:
        top = self.place.worktree_folder.path
        if not any(is_inside(name, path) for path in made) or not (top / name).exists():
            raise Refused(
                f"checkout.share names {excerpt(name)}, which the setup command did not make",
                hint="Name what it makes and git does not track, such as .venv or node_modules",
            )
        if any((top / above).is_symlink() for above in PurePosixPath(name).parents):
            raise Refused(
                f"checkout.share names {excerpt(name)}, to which a link leads", hint="Name it by a path without links"
            )

    def _without(self, path: str, brought: Sequence[str]) -> Iterator[str]:
        """Yield the parts of *path* that are not in *brought*."""
        if any(is_inside(path, name) for name in brought):
            return
        if not any(is_inside(name, path) for name in brought):
            yield path
            return
        for child in sorted(os.listdir(self.place.worktree_folder.path / path)):  # noqa: PTH208 - names
            yield from self._without(f"{path}/{child}", brought)

    def _copy(self, places: Sequence[Path], folder: Path) -> None:
        """Copy with all attributes, sharing blocks if the file system supports it."""
        with environment.Scratch(self.control.scratch, self.claim) as scratch:
            for start in range(0, len(places), _AT_ONCE):
                ran = run_program(
                    self.launcher,
                    ["cp", "-a", "--", *map(str, places[start : start + _AT_ONCE]), f"{folder}/"],
                    replace(self.claim, timeout=SETUP_LIMIT, stall_timeout=None),
                    self.control,
                    variables=environment.inherited() | environment.of_attempt(self.claim, scratch),
                    folder=str(self.place.worktree_folder.path),
                    feed=lambda _: None,
                    announced=False,
                    write=[os.path.realpath(self.root)],
                )
                if ran.interruption is not None:
                    raise GitInterrupted(ran.interruption)
                if ran.exit_code:
                    said = (ran.log.strip().splitlines() or ["no message"])[-1]
                    raise GitFailed(f"What the setup command made cannot be copied: {said}")

    # --- excludes

    def _exclude(self) -> dict[str, str]:
        """Exclude files that git would add to the task's changes. Return the variables that make git do so."""
        strange = self.place.git("ls-files", "--others", "--exclude-standard", "--directory", "-z", limit=LONG).words
        if not strange:
            return {}
        ours = self.place.record / _EXCLUDES
        lines = [f"/{name.translate(_SPECIAL)}" for name in strange if "\n" not in name]
        text = "\n".join([*self._persons_excludes(), *lines, ""])
        untrusted_files.write_new(
            ours, text.encode("utf-8", errors="surrogateescape")
        )  # a job may have left a link there
        number = int(self.claim.work.get("env", {}).get("GIT_CONFIG_COUNT") or 0)
        config = {f"GIT_CONFIG_KEY_{number}": "core.excludesFile", f"GIT_CONFIG_VALUE_{number}": str(ours)}
        mine = {"GIT_CONFIG_KEY_0": "core.excludesFile", "GIT_CONFIG_VALUE_0": str(ours), "GIT_CONFIG_COUNT": "1"}
        self.place.git = self.place.git.at(self.place.worktree_folder.path, **mine)
        return config | {"GIT_CONFIG_COUNT": str(number + 1)}

    def _persons_excludes(self) -> list[str]:
        """Return the lines of the user's own excludes file, which ours replaces.

        Jobs can write the repository's configuration, so a file that it names counts only where jobs may read anyway.
        """
        said = self.place.git("config", "--show-scope", "--type=path", "--get", "core.excludesFile", may_fail=True)
        scope, _, named = said.text.partition("\t")
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - a text
        path = (self.place.worktree_folder.path / (named or f"{base}/git/ignore")).resolve()
        repository = self.place.repository
        within = [
            place for place in (repository.top, repository.common, self.place.worktree_folder.path) if place is not None
        ]
        if scope in _OF_REPOSITORY and not any(path.is_relative_to(place) for place in within):
            return []
        try:
            return untrusted_files.read(path).decode("utf-8", errors="surrogateescape").splitlines()
        except OSError:
            return []


def for_job(place: Worktree, claim: Claim) -> Claim:
    """Return *claim* for the job in *place* itself: what it commits is its agent's, its Python path leads there."""
    own = identity_of(claim)
    own |= {f"GIT_COMMITTER_{what}": own[f"GIT_AUTHOR_{what}"] for what in ("NAME", "EMAIL")}
    work = {**claim.work, "env": own | claim.work["env"]}
    return replace(claim, work=work, python_path=tuple(map(place.counterpart, claim.python_path)))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _hash(path: Path) -> str:
    with untrusted_files.open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
