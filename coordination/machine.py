"""Which machine this is, as far as process ids on it mean anything."""

from __future__ import annotations

import socket
from pathlib import Path


def host() -> str:
    """This machine's name (a container's own)."""
    return socket.gethostname()


def boot_id() -> str:
    """The machine's identity of this boot: process ids mean nothing on another machine or after a restart."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
