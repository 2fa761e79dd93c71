"""Which machine this is, as far as process ids on it mean anything."""

from __future__ import annotations

import socket
from pathlib import Path


def host() -> str:
    """This machine's name (a container's own)."""
    return socket.gethostname()


def boot_id() -> str:
    """Where process ids mean what they mean here: this boot of this kernel, and this namespace of process ids in it.

    Two machines may have one name, and containers of one machine have the same boot: neither sees the other's pids.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"
