"""Reads mutants: small dangerous changes of the source, kept as patches, each with the tests that have to notice it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
_HEADER = re.compile(r"^# (\w+): (.+)$")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: its patch, what it breaks, what that would do to a user, and the tests that fail because of it."""

    patch: Path
    change: str
    danger: str
    tests: tuple[str, ...]
    hangs: bool

    @property
    def name(self) -> str:
        """The patch's file name without its ending."""
        return self.patch.stem

    @property
    def files(self) -> list[str]:
        """The source files that the patch changes."""
        return re.findall(r"^\+\+\+ b/(.+)$", self.patch.read_text(encoding="utf-8"), re.MULTILINE)


def read(patch: Path) -> Mutant:
    """Read the headers of one patch; ValueError when one of the three is missing or unknown."""
    headers: dict[str, str] = {}
    for line in patch.read_text(encoding="utf-8").splitlines():
        match = _HEADER.match(line)
        if match is None:
            break
        headers[match[1]] = match[2].strip()
    hangs = headers.pop("Hangs", "no") == "yes"
    if set(headers) != {"Change", "Danger", "Tests"}:
        raise ValueError(f"{patch.name}: its headers are {sorted(headers)}, not Change, Danger and Tests")
    return Mutant(patch, headers["Change"], headers["Danger"], tuple(headers["Tests"].split()), hangs)


def read_all() -> list[Mutant]:
    """Read every mutant, by name."""
    return [read(patch) for patch in sorted(FOLDER.glob("*.patch"))]
