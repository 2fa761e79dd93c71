"""Files that a task leaves for others: what a plan may ask for, and what is known of each one that was kept. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PATTERNS = 100
_LONGEST = 1_000
LONGEST_PATH = 2_000  # bytes: an index of a database holds no longer ones
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that an attempt made and that was kept. *path*: from the job's folder, with slashes."""

    path: str
    size: int
    sha256: str
    url: str


def outputs_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """What a task has to leave, by its stored options: paths and patterns of files."""
    found = options.get("outputs")
    return tuple(found) if isinstance(found, list) else ()


def outputs_problem(outputs: Sequence[object]) -> str | None:
    """What is wrong with a plan's outputs, as the end of a sentence; None when nothing is."""
    if outputs == ():
        return None
    if isinstance(outputs, str) or not isinstance(outputs, Sequence):
        return "must be a list of paths"
    if len(outputs) > MOST_PATTERNS:
        return f"names {len(outputs):,} paths; at most {MOST_PATTERNS} are possible, and a pattern may stand for many"
    return next((problem for one in outputs if (problem := _path_problem(one)) is not None), None)


def _path_problem(path: object) -> str | None:
    if not isinstance(path, str) or not path.strip():
        return "must hold paths"
    if len(path) > _LONGEST:
        return f"holds a path of {len(path):,} characters; at most {_LONGEST:,} are possible"
    if not path.isprintable():
        return f"holds a path with control characters: {path!r}"
    if path.startswith(("/", "~/")) or ".." in path.split("/"):
        return f"holds {path!r}, which is not inside the job's folder"
    return None


def kept_name(path: str, taken: Container[str] = ()) -> str:
    """The name under which a file at *path* is kept: as it is, with bytes that are not UTF-8 written as ``\\xe9``.

    Where another file of the attempt has that name (*taken*), a digest of the real one tells them apart.
    """
    real = path.encode("utf-8", "surrogateescape")
    name = real.decode("utf-8", "backslashreplace")
    if name not in taken:
        return name
    return f"{name}~{hashlib.sha256(real).hexdigest()[:_DIGEST]}"


def is_inside(path: str) -> bool:
    """Whether a kept file's path stays below the folder that it is put into."""
    parts = path.split("/")
    return bool(path) and not path.startswith("/") and not {"", ".", ".."} & set(parts) and "\0" not in path
