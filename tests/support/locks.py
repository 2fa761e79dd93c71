"""Reads the locks in ``locks/``: which version of each package a Python installs, and by which hashes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.sources import ROOT


@dataclass(frozen=True, slots=True)
class LockLine:
    """One line of a lock, including continuation lines: what follows the requirement stays a list of options."""

    requirement: Requirement
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name in the form that package indexes compare."""
        return canonicalize_name(self.requirement.name)


def lock_text(name: str) -> str:
    """Return the content of the lock with this name."""
    return (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")


def lock_lines(text: str) -> list[LockLine]:
    """Parse a lock; a line that is no requirement is an error."""
    joined = text.replace("\\\n", " ").splitlines()
    lines = []
    for line in joined:
        if not line.strip() or line.startswith("#"):
            continue
        requirement, *options = line.split(" --")
        lines.append(LockLine(Requirement(requirement.strip()), tuple(f"--{option.strip()}" for option in options)))
    return lines


def environment_of(python: str) -> dict[str, str]:
    """Return the values of markers on Linux with this version of Python, such as 3.12."""
    ours = cast("dict[str, str]", default_environment())
    return {
        **ours,
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }


def locked_versions(lines: Iterable[LockLine], environment: dict[str, str]) -> dict[str, Version]:
    """Return the version of each package that is installed in *environment*; two for one package are an error."""
    versions: dict[str, Version] = {}
    for line in lines:
        requirement = line.requirement
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        (pin,) = requirement.specifier
        if line.name in versions:
            raise ValueError(f"the lock gives two versions of {line.name} to one environment")
        versions[line.name] = Version(pin.version)
    return versions
