"""Keeps the files that a job has to leave: found in its folder, copied to the artifact store, listed with its end.

Nothing that is copied counts before the attempt's end is written, so half of a file is never listed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import IO

from coordination.adapters.artifact_store import ArtifactStore
from coordination.base.errors import CoordinationError, Refused, Unavailable
from coordination.base.sizes import show_size
from coordination.base.wording import excerpt
from coordination.domain.jobs.artifacts import LONGEST_PATH, Artifact, outputs_of, stored_name
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished
from workers.runners import untrusted_files
from workers.runners.base import Control

_WAITS = (1, 2, 4, 8, 16)  # seconds between tries to reach the store


@dataclass(frozen=True, slots=True)
class Terms:
    """Where files are kept, and how many and how large they may be in all, for one attempt."""

    store: ArtifactStore
    most: int
    bytes: int


class ArtifactsStep:
    """Keeps the outputs of a job that has completed."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        result, claim = proceed(attempt), attempt.claim
        is_retold = attempt.change is not None and attempt.change.is_retold
        if is_retold or claim.workdir is None or is_unfinished(result):
            return result
        return kept(claim, claim.workdir, result, control=attempt.control, terms=self._terms)


class _Stopped(Exception):
    """The job is told to stop: nobody waits for its files."""


def kept(claim: Claim, folder: str, result: AttemptEnd, *, control: Control, terms: Terms) -> AttemptEnd:
    """Return the completed *result* with the files that the task has to leave in *folder*, or failed without one."""
    outputs = outputs_of(claim.options)
    root = os.path.realpath(folder)
    copying = _Copying(claim, root, control, terms)
    try:
        made = tuple(copying.keep(path) for path in _found(root, outputs, terms))
    except _Stopped:
        copying.forget()
        reason = control.stop_reason
        assert reason is not None  # noqa: S101 - that is what stopped it
        return replace(result, outcome=reason.outcome, error="stopped while its outputs were kept")
    except CoordinationError as error:
        copying.forget()
        retryable = not isinstance(error, Refused)
        return replace(result, outcome=Outcome.FAILED, error=error.sentence(), retryable=retryable)
    except OSError as error:
        return replace(result, outcome=Outcome.FAILED, error=f"Its outputs cannot be read: {stored_name(str(error))}")
    except RecursionError:
        return replace(result, outcome=Outcome.FAILED, error="Its outputs are in too many folders, one in another")
    return replace(result, artifacts=made)


def _found(root: str, outputs: Iterable[str], terms: Terms) -> list[str]:
    """The paths of all files that *outputs* mean, each once. Unavailable when one means none."""
    found: dict[str, None] = {}
    for wanted in outputs:
        there = False
        for path in _matches(root, wanted):
            there = True
            found[path] = None
            if len(found) > terms.most:
                raise Refused(
                    f"Its output {excerpt(wanted)} is more than {terms.most:,} files",
                    hint="Let the job pack them into one, or raise COORD_ARTIFACTS_MOST",
                )
        if not there:
            raise Unavailable(f"Its output {excerpt(wanted)} is missing: the job left no such file in its folder")
    return sorted(found, key=lambda path: stored_name(path) != path)  # names that need no other form keep theirs


def _matches(root: str, wanted: str) -> Iterator[str]:
    """Files, from *root*; of a folder that is meant, everything in it."""
    # A file may be called as a pattern looks.
    if os.path.lexists(_below(root, wanted)):
        names: Iterable[str] = [wanted]
    else:
        names = glob.iglob(wanted, root_dir=root, recursive=True, include_hidden=True)  # noqa: PTH207 - of texts
    for name in names:
        path = _below(root, name)
        if not os.path.isdir(path):  # noqa: PTH112
            yield os.path.normpath(name)
            continue
        _check_inside(root, path, name)
        for folder, _, others in untrusted_files.walk(path):
            for file in sorted(others):
                yield os.path.relpath(_below(folder, file), root)


def _below(folder: str, name: str) -> str:
    return os.path.join(folder, name)  # noqa: PTH118 - a pattern is no Path


def _check_inside(root: str, path: str, name: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise Refused(f"Its output {excerpt(name)} leads out of the job's folder, to {stored_name(real)}")


class _Copying:
    """Copies the files of one attempt."""

    def __init__(self, claim: Claim, root: str, control: Control, terms: Terms) -> None:
        self._place = [claim.workspace_id, claim.run_id, claim.task_id, str(claim.attempt)]
        self._root = root
        self._control = control
        self._terms = terms
        self._copied = 0
        self._names: set[str] = set()

    def keep(self, path: str) -> Artifact:
        """Copy one file; a store that cannot be reached is waited for, half a minute in all."""
        waits = iter(_WAITS)
        name = self._name(path)
        while True:
            before = self._copied
            try:
                with self._opened(path) as source:
                    return self._terms.store.keep(source, name, place=self._place, on_chunk=self._count)
            except Unavailable:
                self._copied = before
                if (wait := next(waits, None)) is None:
                    raise
                if self._control.wait(timedelta(seconds=wait)) is not None:
                    raise _Stopped from None

    def _name(self, path: str) -> str:
        name = stored_name(self._control.secrets.hide(path), self._names)
        if name in self._names:  # names that differed only in a secret
            name = stored_name(f"{name}~{len(self._names)}", self._names)
        if (size := len(name.encode())) > LONGEST_PATH:
            raise Refused(
                f"Its output {excerpt(name)} has a path of {size:,} bytes; at most {LONGEST_PATH:,} can be kept",
                hint="Let the job pack deep folders into one file",
            )
        self._names.add(name)
        return name

    def forget(self) -> None:
        """Delete what was copied for an attempt that has failed for its files: nothing lists them."""
        if self._copied:
            with contextlib.suppress(CoordinationError):  # retention comes by, too
                self._terms.store.forget(self._place)

    def _count(self, size: int) -> None:
        if self._control.stop_requested:
            raise _Stopped
        self._control.progress()
        self._copied += size
        self._check_size(self._copied)

    def _check_size(self, size: int) -> None:
        if size > self._terms.bytes:
            raise Refused(
                f"Its outputs are larger than {show_size(self._terms.bytes)} in all",
                hint="Raise COORD_ARTIFACTS_BYTES, or leave something out",
            )

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes]]:
        """The file, where it really is: no link that anybody makes meanwhile leads out of the folder."""
        handle = os.open(_below(self._root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            _check_inside(self._root, f"/proc/self/fd/{handle}", path)
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Refused(f"Its output {excerpt(path)} is no file")
            self._check_size(self._copied + found.st_size)  # before anything is copied: a file may have holes
            yield file
