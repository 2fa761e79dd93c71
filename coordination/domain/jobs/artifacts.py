"""Artifacts: checks of the paths that a plan lists under ``outputs``, and records of stored files."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PATTERNS = 100
_LONGEST = 1_000
LONGEST_PATH = 2_000  # bytes: the limit of database indexes
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file of an attempt. *path*: relative to the job's folder, with slashes."""

    path: str
    size: int
    sha256: str
    url: str


def outputs_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths and patterns of the files that a task must leave, from its stored options."""
    outputs = options.get("outputs")
    return tuple(outputs) if isinstance(outputs, list) else ()


def outputs_problem(outputs: Sequence[object]) -> str | None:
    """Return what is wrong with a plan's outputs, as the end of a sentence, or None."""
    if isinstance(outputs, str) or not isinstance(outputs, Sequence):
        return "must be a list of paths"
    if len(outputs) > MOST_PATTERNS:
        return f"has {len(outputs):,} paths; at most {MOST_PATTERNS} are possible, and a pattern can match many files"
    return next((problem for path in outputs if (problem := _path_problem(path)) is not None), None)


def _path_problem(path: object) -> str | None:
    if not isinstance(path, str) or not path.strip():
        return "must contain paths"
    if len(path) > _LONGEST:
        return f"contains a path of {len(path):,} characters; at most {_LONGEST:,} are possible"
    if not path.isprintable():
        return f"contains a path with control characters: {path!r}"
    if path.startswith(("/", "~/")) or ".." in path.split("/"):
        return f"contains {path!r}, which is not inside the job's folder"
    return None


def stored_name(path: str, used_names: Container[str] = ()) -> str:
    """Return the name under which a file is stored: its *path*, with bytes that are not UTF-8 written as ``\\xe9``.

    If another file of the attempt has that name already, a digest of the real path is appended.
    """
    real = path.encode("utf-8", "surrogateescape")
    name = real.decode("utf-8", "backslashreplace")
    if name not in used_names:
        return name
    return f"{name}~{hashlib.sha256(real).hexdigest()[:_DIGEST]}"


def is_inside(path: str) -> bool:
    """Return whether a stored file's path stays below the folder that it is copied to."""
    parts = path.split("/")
    return bool(path) and not path.startswith("/") and not {"", ".", ".."} & set(parts) and "\0" not in path
