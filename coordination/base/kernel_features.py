"""The kernel's features that confine jobs: Landlock, system call filters, bubblewrap. Read-only.

``workers.runners.sandbox_exec`` detects the first two itself, in a program that may not import our modules.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIN_LANDLOCK = 3
"""The least version of Landlock (Linux 6.2) for a required sandbox."""

_CREATE_RULESET, _VERSION = 444, 1
_PATIENCE = 20.0
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """The features found. ``landlock``: its version, or 0. ``bubblewrap``: its version; None if not installed.

    ``problem``: the message of bubblewrap when it cannot create namespaces here.
    """

    landlock: int
    seccomp: bool
    bubblewrap: str | None
    problem: str | None = None

    @property
    def in_words(self) -> str:
        """All features, for people."""
        landlock = f"Landlock {self.landlock}" if self.landlock else "no Landlock"
        bubblewrap = "no bubblewrap" if self.bubblewrap is None else self.bubblewrap
        broken = f", which cannot create namespaces here ({self.problem})" if self.problem else ""
        return f"{landlock}, {'seccomp' if self.seccomp else 'no seccomp'}, {bubblewrap}{broken}"


def detect() -> KernelFeatures:
    """Detect the features, by the kernel and by running bubblewrap."""
    program = shutil.which("bwrap")
    version, problem = None, None
    if program is not None:
        version = _run(program, "--version")[1] or "bubblewrap"
        alone = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--ro-bind", "/", "/")
        code, output = _run(program, *alone, "--proc", "/proc", "--dev", "/dev", "/bin/sh", "-c", "exit 0")
        problem = (output or f"exit status {code}") if code else None
    return KernelFeatures(_landlock(), _seccomp(), version, problem)


def _landlock() -> int:
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        abi_version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except (OSError, AttributeError):
        return 0
    return max(0, int(abi_version))


def _seccomp() -> bool:
    try:
        return "errno" in Path("/proc/sys/kernel/seccomp/actions_avail").read_text(encoding="ascii").split()
    except OSError:
        return False


def _run(*command: str) -> tuple[int, str]:
    """Return the exit status, and the last line of the program's output."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)[:_LONGEST]
    return result.returncode, (result.stdout + result.stderr).strip().rpartition("\n")[2][:_LONGEST]
