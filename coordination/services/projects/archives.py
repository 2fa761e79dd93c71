"""Archives of what retention is about to delete: written whole or not at all, and on the disk before anything goes."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from coordination.base.errors import FormatError, Unavailable
from coordination.formats.run_archive import read_archive, write_archive
from coordination.store.queries.projects import retention


def archive_run(tx: Connection, workspace_id: str, run_id: str, folder: Path) -> Path:
    """Write a marked run, with everything that is stored about it and its costs, to ``RUN.jsonl.gz``; that file.

    A whole file that is there already was written by an earlier round, before it deleted anything, and stays. Raises
    Unavailable when the folder does not take it.
    """
    path = folder / f"{run_id}.jsonl.gz"
    if not _is_whole(path):
        _write(path, write_archive("run", {"run_id": run_id}, retention.rows_of(tx, workspace_id, run_id)))
    return path


def archive_costs(rows: Iterable[Mapping[str, Any]], folder: Path, *, name: str) -> Path:
    """Write cost records to ``NAME.jsonl.gz``; that file. Raises Unavailable when the folder does not take it."""
    path = folder / f"{name}.jsonl.gz"
    _write(path, write_archive("costs", {}, (("costs", row) for row in rows)))
    return path


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an archive, each with its table as ``record``; FormatError when it is not whole."""
    with gzip.open(path, "rb") as lines:
        yield from read_archive(lines, source=str(path))


def _is_whole(path: Path) -> bool:
    try:
        for _ in read(path):
            pass
    except (OSError, EOFError, FormatError):
        return False
    return True


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """To a file of another name first, to the disk, then renamed: what has the name is whole, whatever happens."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=".gz")
        try:
            with os.fdopen(descriptor, "wb") as file:
                with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
                    packed.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the name is on the disk too
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(
            f"The archive {path} cannot be written: {error.strerror or error}",
            hint="Nothing of the run was deleted. Make room there, or name another folder",
        ) from error
