"""The repository as the architecture tests read it: the tracked files and their syntax trees."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_NOT_OURS = {".venv", ".git", ".coord", "build", "dist", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache"}


def python_files(*folders: str) -> list[Path]:
    """Return every Python file below *folders*, in a stable order."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if not _NOT_OURS & {*path.parts})


def repository_files() -> list[Path]:
    """Return every file that is, or is about to be, committed; outside a git checkout, all files there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return sorted(path for name in names if name and (path := ROOT / name).is_file())
    return sorted(path for path in ROOT.rglob("*") if path.is_file() and not _NOT_OURS & {*path.parts})


def name_of(path: Path) -> str:
    """Return the path relative to the repository's root."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def pyproject() -> dict[str, Any]:
    """Return pyproject.toml as data."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def declared_pythons() -> set[str]:
    """Return the Python versions that the classifiers in pyproject.toml declare."""
    prefix = "Programming Language :: Python :: "
    return {line.removeprefix(prefix) for line in pyproject()["project"]["classifiers"] if line.startswith(prefix)}
