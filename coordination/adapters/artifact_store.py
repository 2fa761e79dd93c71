"""Storage of artifacts at the URL in the settings: a folder, or an object store such as S3.

fsspec accesses them; it is imported when the first file is stored or fetched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import UnsupportedOperation
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from coordination.base.errors import CoordinationError, Refused, Unavailable
from coordination.base.ids import new_id
from coordination.base.urls import masked
from coordination.base.wording import excerpt
from coordination.domain.jobs.artifacts import Artifact, is_inside

_CHUNK = 1 << 20
_LONGEST_NAME = 200  # bytes of one name; most file systems allow 255
_LONGEST_PATH = 2_000  # bytes of a file's path; Linux allows 4,096


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """The store at *url*. Raises Refused when it cannot be used, Unavailable when it cannot be reached now."""

    url: str

    def check(self) -> None:
        """Raise Refused unless such a store is supported here; connects to nothing."""
        _file_system(self.url)

    def keep(self, source: IO[bytes], path: str, *, place: Sequence[str], on_chunk: Callable[[int], None]) -> Artifact:
        """Copy a file to *place* (names of folders) and return its artifact, by whose URL it can be fetched.

        *on_chunk* is called with the size of every chunk, and may raise.
        """
        names = _names(path)
        url = "/".join([self.url.rstrip("/"), *map(_safe, place), *names])
        files, where = _file_system(url)
        what = f"The artifact {path} cannot be stored at {masked(self.url)}"
        if _is_folder(files):
            with _store_errors(what):
                _check_no_links(where, len(place) + len(names))
        with _store_errors(what), _open_for_writing(files, where) as target:
            size, sha256 = _copy(source, target, on_chunk)
            _sync(target)
        return Artifact(path, size, sha256, url)

    def forget(self, place: Sequence[str]) -> None:
        """Delete everything at *place* in this store, if it exists.

        Links are not followed: when *place* leads through one, raises Unavailable and deletes nothing.
        """
        url = "/".join([self.url.rstrip("/"), *map(_safe, place)])
        files, where = _file_system(url)
        with _store_errors(f"The artifacts at {masked(url)} cannot be deleted"), contextlib.suppress(FileNotFoundError):
            if _is_folder(files):
                _check_no_links(where, len(place))
            files.rm(where, recursive=True)


def _is_folder(files: Any) -> bool:
    return "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol)


def _check_no_links(where: str, below: int) -> None:
    """Raise OSError when one of the last *below* parts of a path is a link: only others create links there."""
    path = Path(where)
    for place in [path, *path.parents][:below]:
        if place.is_symlink():
            raise OSError(f"{place} is a link")


def _open_for_writing(files: Any, where: str) -> Any:
    try:
        return files.open(where, "wb")
    except FileNotFoundError:
        # Only for folders: an object store would check its bucket, which may not be permitted.
        files.makedirs(where.rpartition("/")[0], exist_ok=True)
        return files.open(where, "wb")


def fetch_artifact(artifact: Artifact, folder: Path) -> Path:
    """Copy a stored file, complete and unchanged, to its path below *folder*, and return the copy."""
    if not is_inside(artifact.path):
        raise Refused(f"{excerpt(artifact.path)} is not a path inside a folder")
    files, where = _file_system(artifact.url)
    target = folder / artifact.path
    partial = target.with_name(f".{new_id()}.partial")
    hint = "To share files between machines, set COORD_ARTIFACTS_URL to a store that all of them can reach"
    with _store_errors(f"The artifact {artifact.path} cannot be fetched from {masked(artifact.url)}", hint=hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with files.open(where, "rb") as source, partial.open("wb") as copy:
                size, sha256 = _copy(source, copy, lambda _size: None)
            if (size, sha256) != (artifact.size, artifact.sha256):
                message = f"The content of {masked(artifact.url)} is not the stored {artifact.path}"
                raise Unavailable(message, hint="It was changed since; nothing was written")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, where = fsspec.core.url_to_fs(url)
    except ImportError as error:
        message = f"Artifacts at {masked(url)} need a package that is not installed: {error}"
        raise Refused(message, hint="For s3:// install coordination[s3]; for others see fsspec") from None
    except ValueError as error:
        raise Refused(
            f"Artifacts cannot be stored at {masked(url)}: {error}", hint="Change COORD_ARTIFACTS_URL"
        ) from None
    return files, where


@contextlib.contextmanager
def _store_errors(what: str, *, hint: str | None = None) -> Iterator[None]:
    """Turn a store's errors, which may be of any class, into ours."""
    try:
        yield
    except CoordinationError:
        raise
    except FileNotFoundError:
        raise Unavailable(f"{what}: it does not exist", hint=hint) from None
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise Unavailable(f"{what}: {text or type(error).__name__}") from error


def _copy(source: IO[bytes], target: IO[bytes], on_chunk: Callable[[int], None]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while data := source.read(_CHUNK):
        size += len(data)
        on_chunk(len(data))
        digest.update(data)
        target.write(data)
    return size, digest.hexdigest()


def _sync(target: Any) -> None:
    """Write a file to the disk, so that it survives a crash of the machine after its attempt has ended."""
    target.flush()
    with contextlib.suppress(UnsupportedOperation, AttributeError):
        os.fsync(target.fileno())


def _names(path: str) -> list[str]:
    """Return the folders and the file name for *path*; one digest if it is too long for Linux."""
    names = list(map(_safe, path.split("/")))
    return names if sum(map(len, names)) + len(names) <= _LONGEST_PATH else [hashlib.sha256(path.encode()).hexdigest()]


def _safe(name: str) -> str:
    """Return *name* without characters special in URLs or patterns, shortened to fit a folder."""
    safe = quote(name, safe="")
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[: _LONGEST_NAME // 2]}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()}"
