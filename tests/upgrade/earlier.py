"""Programs of earlier schemas, taken from this repository's history and run from a folder of their own."""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.support.services import missing
from tests.support.sources import ROOT


@dataclass(frozen=True, slots=True)
class Release:
    """A commit that had this schema. The first ones refuse any newer one: they cannot ask yet whether it fits."""

    schema: str
    commit: str
    asks: bool = True


EARLIER = (
    Release("0001", "8c0b4146499daef0bf4e090f981fb191611c064c", asks=False),
    Release("0002", "9ed911f9f7732a27cce61020b4fd61cb2f6c0a07"),
    Release("0003", "bae30afccf0fc5ba391a336760feb6de597a75a2"),
    Release("0004", "9052ee46d44930a15ec27339edcf8f9c6c442bed"),
    Release("0005", "1873aeeadad15cd3065cbd6fb024ea48f9c62652"),
)
"""Programs that must still work beside today's. With each new migration one joins them: the last commit before it."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """One earlier program: its source in *folder*."""

    release: Release
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What makes Python take this source and no other."""
        return {"PYTHONPATH": str(self.folder)}


def taken_from_history(release: Release, folder: Path) -> Earlier:
    """Its program, unpacked into *folder*; without the history, the test is skipped (in CI: fails)."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", release.commit, "coordination", "workers", "beat_schedule.py"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if packed.returncode != 0:
        missing(f"history of commit {release.commit[:12]}", packed.stderr.decode().strip())
    folder.mkdir()
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Earlier(release, folder)
