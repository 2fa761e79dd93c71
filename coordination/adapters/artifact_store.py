"""Where artifacts are kept: a folder, or a store of objects such as S3, by the URL that the settings name.

fsspec is what speaks to them; it is imported when a file is first kept or fetched.
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
from coordination.base.wording import excerpt
from coordination.domain.jobs.artifacts import Artifact, is_inside

_CHUNK = 1 << 20
_LONGEST_NAME = 200  # bytes of one name in a folder, of 255 that most file systems have
_LONGEST_PATH = 2_000  # bytes of all names of a file, of 4,096 that Linux opens


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """The store at *url*. Raises Refused when it can never be used so, Unavailable when it cannot be reached now."""

    url: str

    def check(self) -> None:
        """Whether such a store is known here; connects to nothing."""
        _opened(self.url)

    def keep(self, source: IO[bytes], path: str, *, place: Sequence[str], more: Callable[[int], None]) -> Artifact:
        """Copy a file to *place* (names of folders), from which it can be fetched under the artifact's URL.

        *more* is told of every piece, and may raise.
        """
        names = _names(path)
        url = "/".join([self.url.rstrip("/"), *map(_safe, place), *names])
        files, where = _opened(url)
        what = f"The artifact {path} cannot be kept at {self.url}"
        if _is_folder(files):
            with _answered(what):
                _check_no_links(where, len(place) + len(names))
        with _answered(what), _opened_for_writing(files, where) as target:
            size, sha256 = _copy(source, target, more)
            _to_disk(target)
        return Artifact(path, size, sha256, url)

    def forget(self, place: Sequence[str]) -> None:
        """Delete everything at *place* in this store, and nothing elsewhere; what is gone already is fine.

        A folder's links are not followed: where *place* leads through one, Unavailable, and nothing is deleted.
        """
        url = "/".join([self.url.rstrip("/"), *map(_safe, place)])
        files, where = _opened(url)
        with _answered(f"The artifacts at {url} cannot be deleted"), contextlib.suppress(FileNotFoundError):
            if _is_folder(files):
                _check_no_links(where, len(place))
            files.rm(where, recursive=True)


def _is_folder(files: Any) -> bool:
    return "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol)


def _check_no_links(where: str, below: int) -> None:
    """Raise OSError when one of the last *below* parts of a path is a link: nobody but others puts one there."""
    parts = Path(where)
    for place in [parts, *parts.parents][:below]:
        if place.is_symlink():
            raise OSError(f"{place} is a link")


def _opened_for_writing(files: Any, where: str) -> Any:
    try:
        return files.open(where, "wb")
    except FileNotFoundError:
        # Only where there are folders: a store of objects would look for its bucket, which may not be allowed.
        files.makedirs(where.rpartition("/")[0], exist_ok=True)
        return files.open(where, "wb")


def fetch(artifact: Artifact, folder: Path) -> Path:
    """Copy a kept file to its path below *folder*, whole or not at all, and only if it is what was kept; that file."""
    if not is_inside(artifact.path):
        raise Refused(f"{excerpt(artifact.path)} is no path inside a folder")
    files, where = _opened(artifact.url)
    target = folder / artifact.path
    partial = target.with_name(f".{new_id()}.partial")
    elsewhere = "Where files of other machines are to be had, COORD_ARTIFACTS_URL names a place that all of them reach"
    with _answered(f"The artifact {artifact.path} cannot be fetched from {artifact.url}", hint=elsewhere):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with files.open(where, "rb") as source, partial.open("wb") as written:
                size, sha256 = _copy(source, written, lambda _size: None)
            if (size, sha256) != (artifact.size, artifact.sha256):
                raise Unavailable(
                    f"What is at {artifact.url} is not what was kept as {artifact.path}",
                    hint="Somebody has changed it since; nothing was written",
                )
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        files, where = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise Refused(
            f"Artifacts at {url} need a package that is not installed: {error}",
            hint="For s3:// install coordination[s3]; for others see fsspec",
        ) from None
    except ValueError as error:
        raise Refused(f"Artifacts cannot be kept at {url}: {error}", hint="Change COORD_ARTIFACTS_URL") from None
    return files, where


@contextlib.contextmanager
def _answered(what: str, *, hint: str | None = None) -> Iterator[None]:
    """A store's own errors, which may be of any class, as ours."""
    try:
        yield
    except CoordinationError:
        raise
    except FileNotFoundError:
        raise Unavailable(f"{what}: it is not there", hint=hint) from None
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise Unavailable(f"{what}: {text or type(error).__name__}") from error


def _copy(source: IO[bytes], target: IO[bytes], more: Callable[[int], None]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    while data := source.read(_CHUNK):
        size += len(data)
        more(len(data))
        digest.update(data)
        target.write(data)
    return size, digest.hexdigest()


def _to_disk(target: Any) -> None:
    """A file of a folder survives the machine's end once its attempt has ended."""
    target.flush()
    with contextlib.suppress(UnsupportedOperation, AttributeError):
        os.fsync(target.fileno())


def _names(path: str) -> list[str]:
    """The names of folders and file under which *path* is kept; one digest for a path that is too long for Linux."""
    names = list(map(_safe, path.split("/")))
    return names if sum(map(len, names)) + len(names) <= _LONGEST_PATH else [hashlib.sha256(path.encode()).hexdigest()]


def _safe(name: str) -> str:
    """*name* without what means something in URLs or patterns, and short enough for a folder."""
    safe = quote(name, safe="")
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[: _LONGEST_NAME // 2]}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()}"
