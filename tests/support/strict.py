"""The strict sandbox for tests: with bubblewrap where it is installed, as the user who runs the tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.support.services import missing, without_landlock
from workers.runners import sandbox_exec
from workers.runners.namespaces import Namespaces
from workers.runners.sandbox_policy import SandboxPolicy


@cache
def _problem() -> str | None:
    program = shutil.which("bwrap")
    if program is None:
        return "no program bwrap"
    tried = [program, "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "--proc", "/proc", "/bin/true"]
    done = subprocess.run(tried, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr.strip() or None if done.returncode else None


def needs_bubblewrap() -> str:
    """Return the path of bwrap; without one that works, the test is skipped, or fails in CI."""
    if sandbox_exec.version() < sandbox_exec.ENOUGH or not sandbox_exec.can_refuse_calls():
        without_landlock()
    problem, program = _problem(), shutil.which("bwrap")
    if problem is not None or program is None:
        missing("bubblewrap", problem)
    return program


ORDINARY, STRICT = {"COORD_REQUIRE_SANDBOX": "1"}, {"COORD_SANDBOX": "strict"}


def needs(sandbox: Mapping[str, str]) -> None:
    """Skip the test where that sandbox, as in a worker's setting, is unavailable."""
    if sandbox == STRICT:
        needs_bubblewrap()
    elif sandbox_exec.version() < sandbox_exec.ENOUGH or not sandbox_exec.can_refuse_calls():
        without_landlock()


def strict_sandbox(
    scratch: Path,
    write: Sequence[str] = (),
    *,
    read: Sequence[str] = (),
    hide: Sequence[str] = (),
    network: bool = True,
    proxy: str | None = None,
) -> SandboxPolicy:
    """Return a sandbox as a worker has it with ``COORD_SANDBOX=strict``."""
    namespaces = Namespaces(needs_bubblewrap(), network=network, proxy=proxy)
    return SandboxPolicy(scratch, write, read=read, hide=hide, namespaces=namespaces)
