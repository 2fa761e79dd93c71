"""Test the README as a new user follows it: its commands run as printed, in order, in a clone; the output matches."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.processes import Processes
from tests.support.readme import BEGINS, LEFT_OUT, blocks, script
from tests.support.reaper import TAG
from tests.support.sources import ROOT, pyproject

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
# The package index and its certificates are settings of this machine.
KEPT = re.compile(r"PIP_\w+|\w*SSL_CERT\w*|\w*CA_BUNDLE|TMPDIR|LANG")
LIMIT = timedelta(minutes=9)


def stranger(folder: Path) -> dict[str, str]:
    """Provide an environment with a home of its own, and only Python's and the system's programs."""
    home = folder / "home of ada"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name == TAG or KEPT.fullmatch(name)}
    settings = Path("~/.config/pip/pip.conf").expanduser()
    if settings.exists():
        kept.setdefault("PIP_CONFIG_FILE", str(settings))
    # Without this user's git configuration: no author is set.
    nobody = {"HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin"}
    return dict.fromkeys(os.environ, "") | kept | nobody


def shape(line: str) -> str:
    """Return a line without what differs between two runs: times, ids, counts, paths."""
    line = re.sub(r"^(run .* of|# Check-up of) .*", r"\1 it", line.strip())
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4,12}){4}|\d[\d,.:]*(ms|s|m|h)?\b", "N", line)
    return re.sub(r"(after|in) (N ?)+", r"\1 N", re.sub(r" +", " ", line))


@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.stores("postgres")
def test_its_commands_run_in_order_as_they_are_printed(
    processes: Processes, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    clone = tmp_path / "my projects" / "coordination"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    commands = script(
        replaced={
            "postgresql://coord:secret@localhost/coord": f"'{postgres_url}'",
            "redis://localhost:6379/0": f"'{redis_url}'",
        }
    )

    ran = processes.start("/bin/bash", "-c", f"{commands}kill $(jobs -p)\nwait\n", cwd=clone, env=stranger(tmp_path))
    code = ran.wait(within=LIMIT)

    assert code == 0, ran.output
    begun = [line.removeprefix(BEGINS) for line in ran.output.splitlines() if line.startswith(BEGINS)]
    wanted = [text.splitlines()[0] for language, text in blocks(README) if language == "console"]
    assert begun == [line for line in wanted if not line.startswith(tuple(LEFT_OUT))]
    demo = next(text for language, text in blocks(README) if language == "text")
    printed = {shape(line) for line in ran.output.splitlines()}
    lines = [line for line in demo.splitlines() if not line.strip().startswith(("…", "|"))]
    assert [line for line in lines if shape(line) not in printed] == []
    assert "tell:\n  lint completed, " in ran.output
    home = tmp_path / "home of ada"
    # The worker and beat of the block before may still write into the home folder, so that is not compared.
    assert not any((home / name).exists() for name in (".local/bin/coord", ".local/share/coordination"))


def test_the_commands_that_are_left_out_are_there() -> None:
    commands = [text for language, text in blocks(README) if language == "console"]

    assert all(any(text.startswith(name) for text in commands) for name in LEFT_OUT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_installation_works_in_a_clone(page: Path) -> None:
    extras = set(pyproject()["project"]["optional-dependencies"])

    requirements = re.findall(r"(?:pip|pipx|uv tool) install ([^`\n]+)", page.read_text(encoding="utf-8"))

    for what in requirements:
        words = what.replace("--force ", "").split(" #")[0].strip()
        named = re.fullmatch(r"'?\.(?:\[([\w,]+)\])?'?|coordination\b.*\.whl", words)
        assert named is not None, what
        assert set((named[1] or "").split(",")) - {""} <= extras
