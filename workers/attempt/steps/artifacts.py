"""Copies a job's output files from its folder to the artifact store and lists them in the attempt's end.

The files count only once the attempt's end is written, so a partial file is never listed.
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

_RETRIES_AFTER = (1, 2, 4, 8, 16)  # seconds, while the store is unavailable


@dataclass(frozen=True, slots=True)
class ArtifactLimits:
    """The artifact store, and the most files and bytes of one attempt."""

    store: ArtifactStore
    most: int
    bytes: int


class ArtifactsStep:
    """Keeps the outputs of a job that has completed."""

    def __init__(self, limits: ArtifactLimits) -> None:
        self._limits = limits

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        result, claim = proceed(attempt), attempt.claim
        has_artifacts = attempt.change is not None and attempt.change.is_earlier_result
        if has_artifacts or claim.workdir is None or is_unfinished(result):
            return result
        return keep_outputs(claim, claim.workdir, result, control=attempt.control, limits=self._limits)


class _Stopped(Exception):
    """The attempt must stop, so its files are not needed."""


def keep_outputs(
    claim: Claim, folder: str, result: AttemptEnd, *, control: Control, limits: ArtifactLimits
) -> AttemptEnd:
    """Return the completed *result* with the task's output files in *folder*; failed if one is missing."""
    outputs = outputs_of(claim.options)
    root = os.path.realpath(folder)
    copying = _Copying(claim, root, control, limits)
    try:
        artifacts = tuple(copying.keep(path) for path in _find_outputs(root, outputs, limits))
    except _Stopped:
        copying.forget()
        reason = control.stop_reason
        assert reason is not None  # noqa: S101 - it caused _Stopped
        return replace(result, outcome=reason.outcome, error="stopped while its outputs were kept")
    except CoordinationError as error:
        copying.forget()
        retryable = not isinstance(error, Refused)
        return replace(result, outcome=Outcome.FAILED, error=error.sentence(), retryable=retryable)
    except OSError as error:
        return replace(result, outcome=Outcome.FAILED, error=f"Its outputs cannot be read: {stored_name(str(error))}")
    except RecursionError:
        return replace(result, outcome=Outcome.FAILED, error="Its outputs are in too deeply nested folders")
    return replace(result, artifacts=artifacts)


def _find_outputs(root: str, outputs: Iterable[str], limits: ArtifactLimits) -> list[str]:
    """Return the paths of all files that match *outputs*, each once. Raises Unavailable when one has no match."""
    paths: dict[str, None] = {}
    for pattern in outputs:
        has_match = False
        for path in _matches(root, pattern):
            has_match = True
            paths[path] = None
            if len(paths) > limits.most:
                raise Refused(
                    f"Its output {excerpt(pattern)} is more than {limits.most:,} files",
                    hint="Let the job pack them into one, or raise COORD_ARTIFACTS_MOST",
                )
        if not has_match:
            raise Unavailable(f"Its output {excerpt(pattern)} is missing: the job left no such file in its folder")
    # Unchanged names first, so that they stay unchanged.
    return sorted(paths, key=lambda path: stored_name(path) != path)


def _matches(root: str, pattern: str) -> Iterator[str]:
    """Yield the paths below *root* that match; for a folder, all files in it."""
    if os.path.lexists(_below(root, pattern)):  # a file's name may look like a pattern
        names: Iterable[str] = [pattern]
    else:
        names = glob.iglob(pattern, root_dir=root, recursive=True, include_hidden=True)  # noqa: PTH207 - of texts
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
    return os.path.join(folder, name)  # noqa: PTH118 - a pattern is not a Path


def _check_inside(root: str, path: str, name: str) -> None:
    real = os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise Refused(f"Its output {excerpt(name)} is outside of the job's folder, in {stored_name(real)}")


class _Copying:
    """Copies the files of one attempt."""

    def __init__(self, claim: Claim, root: str, control: Control, limits: ArtifactLimits) -> None:
        self._place = [claim.workspace_id, claim.run_id, claim.task_id, str(claim.attempt)]
        self._root = root
        self._control = control
        self._limits = limits
        self._copied = 0
        self._names: set[str] = set()

    def keep(self, path: str) -> Artifact:
        """Copy one file. Retry for half a minute while the store is unavailable."""
        waits = iter(_RETRIES_AFTER)
        name = self._name(path)
        while True:
            before = self._copied
            try:
                with self._open(path) as source:
                    return self._limits.store.keep(source, name, place=self._place, on_chunk=self._count)
            except Unavailable:
                self._copied = before
                if (wait := next(waits, None)) is None:
                    raise
                if self._control.wait(timedelta(seconds=wait)) is not None:
                    raise _Stopped from None

    def _name(self, path: str) -> str:
        name = stored_name(self._control.mask(path), self._names)
        if name in self._names:  # names that differ only in a secret
            name = stored_name(f"{name}~{len(self._names)}", self._names)
        if (size := len(name.encode())) > LONGEST_PATH:
            raise Refused(
                f"Its output {excerpt(name)} has a path of {size:,} bytes; at most {LONGEST_PATH:,} can be kept",
                hint="Let the job pack deep folders into one file",
            )
        self._names.add(name)
        return name

    def forget(self) -> None:
        """Delete the copied files of an attempt that failed because of its outputs."""
        if self._copied:
            with contextlib.suppress(CoordinationError):  # retention deletes them later
                self._limits.store.forget(self._place)

    def _count(self, size: int) -> None:
        if self._control.stop_reason is not None:
            raise _Stopped
        self._control.progress()
        self._copied += size
        self._check_size(self._copied)

    def _check_size(self, size: int) -> None:
        if size > self._limits.bytes:
            raise Refused(
                f"Its outputs are larger than {show_size(self._limits.bytes)} in all",
                hint="Raise COORD_ARTIFACTS_BYTES, or leave something out",
            )

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file and check its real path, so that a link made meanwhile cannot lead out of the folder."""
        handle = os.open(_below(self._root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            _check_inside(self._root, f"/proc/self/fd/{handle}", path)
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"Its output {excerpt(path)} is not a regular file")
            self._check_size(self._copied + status.st_size)  # before copying: a sparse file may be large
            yield file
