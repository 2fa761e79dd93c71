"""What this machine has to confine jobs with: Landlock, filters of system calls, bubblewrap. Looks only.

``workers.runners.sandbox_exec`` asks the first two again, in a program that may import nothing of ours.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ENOUGH = 3
"""The version of Landlock (Linux 6.2) that a required sandbox needs at least."""

_CREATE_RULESET, _VERSION = 444, 1
_PATIENCE = 20.0
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """What there is. ``landlock``: its version, 0 without. ``bubblewrap``: its version; None where it is not installed.

    ``problem``: why bubblewrap makes no namespaces here, in its own words.
    """

    landlock: int
    seccomp: bool
    bubblewrap: str | None
    problem: str | None = None

    @property
    def in_words(self) -> str:
        """All of them, for people."""
        landlock = f"Landlock {self.landlock}" if self.landlock else "no Landlock"
        bubblewrap = "no bubblewrap" if self.bubblewrap is None else self.bubblewrap
        broken = f", which makes no namespaces here ({self.problem})" if self.problem else ""
        return f"{landlock}, {'seccomp' if self.seccomp else 'no seccomp'}, {bubblewrap}{broken}"


def means() -> KernelFeatures:
    """Ask the kernel, and bubblewrap."""
    program = shutil.which("bwrap")
    said, problem = None, None
    if program is not None:
        said = _run(program, "--version")[1] or "bubblewrap"
        alone = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--ro-bind", "/", "/")
        code, words = _run(program, *alone, "--proc", "/proc", "--dev", "/dev", "/bin/sh", "-c", "exit 0")
        problem = (words or f"exit status {code}") if code else None
    return KernelFeatures(_landlock(), _seccomp(), said, problem)


def _landlock() -> int:
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except (OSError, AttributeError):
        return 0
    return max(0, int(found))


def _seccomp() -> bool:
    try:
        return "errno" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text(encoding="ascii").split()
    except OSError:
        return False


def _run(*command: str) -> tuple[int, str]:
    """The exit status, and the last line of what a program says."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)[:_LONGEST]
    return done.returncode, (done.stdout + done.stderr).strip().rpartition("\n")[2][:_LONGEST]
