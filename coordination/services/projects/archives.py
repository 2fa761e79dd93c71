"""Archives of rows that retention deletes: complete or absent, and on the disk before any row is deleted."""

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
    """Write a marked run, with all its rows and costs, to ``RUN.jsonl.gz``, and return that path.

    Keeps a complete file of an earlier round. Raises Unavailable when the file cannot be written.
    """
    path = folder / f"{run_id}.jsonl.gz"
    if not _is_complete(path):
        _write(path, write_archive("run", {"run_id": run_id}, retention.stream_rows(tx, workspace_id, run_id)))
    return path


def archive_costs(rows: Iterable[Mapping[str, Any]], folder: Path, *, name: str) -> Path:
    """Write cost records to ``NAME.jsonl.gz``, and return that path. Raises Unavailable when that fails."""
    path = folder / f"{name}.jsonl.gz"
    _write(path, write_archive("costs", {}, (("costs", row) for row in rows)))
    return path


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an archive, each with its table as ``record``. Raises FormatError when it is incomplete."""
    with gzip.open(path, "rb") as lines:
        yield from read_archive(lines, source=str(path))


def _is_complete(path: Path) -> bool:
    try:
        for _ in read(path):
            pass
    except (OSError, EOFError, FormatError):
        return False
    return True


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """Write to a temporary file, sync and rename it, so that a file with this name is complete."""
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
            os.fsync(folder)  # sync the name too
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(
            f"The archive {path} cannot be written: {error.strerror or error}",
            hint="Nothing of the run was deleted. Free some space there, or name another folder",
        ) from error
