"""A range of network ports as it is written. Pure."""

from __future__ import annotations

import re

FIRST, LAST = 1024, 65_535
"""Below, ports are the system's."""

_RANGE = re.compile(r"(\d{4,5})\s*-\s*(\d{4,5})", re.ASCII)


def parse_ports(text: str) -> range:
    """Return the ports of a range such as ``20000-23999``; ValueError when it is none."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or not FIRST <= int(found[1]) <= int(found[2]) <= LAST:
        raise ValueError
    return range(int(found[1]), int(found[2]) + 1)


def write_ports(ports: range) -> str:
    """Return them as ``parse_ports`` reads them."""
    return f"{ports.start}-{ports.stop - 1}"
