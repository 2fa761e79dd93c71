"""Network access of a job: full, none, or a list of hosts with ports."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65_535
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[str, int]
"""A normalized host (``normalize_host``) and a port."""


class NetworkMode(StrEnum):
    """The extent of network access."""

    ON = "on"
    OFF = "off"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class Network:
    """The network access of a job. *places*: the allowed places of mode LISTED."""

    mode: NetworkMode = NetworkMode.ON
    places: frozenset[Place] = frozenset()

    def allows(self, host: str, port: int) -> bool:
        """Return whether that normalized host, a name or an address, is listed with that port."""
        return (host, port) in self.places

    def may_connect(self, address: Address, port: int) -> bool:
        """Return whether an allowed name may resolve to *address*; addresses that are not public must be listed."""
        return is_public(address) or self.allows(str(address), port)


def parse_network(text: str) -> Network:
    """Parse ``on``, ``off`` or a list of HOST:PORT separated by commas. Raises ValueError."""
    word = text.strip().lower()
    if word in (NetworkMode.ON, NetworkMode.OFF):
        return Network(NetworkMode(word))
    places = frozenset(parse_place(part.strip()) for part in text.split(",") if part.strip())
    if not places:
        raise ValueError
    return Network(NetworkMode.LISTED, places)


def parse_place(text: str) -> Place:
    """Parse HOST:PORT, with IPv6 addresses in brackets. Raises ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not _PORT.fullmatch(port) or not 1 <= int(port) <= _LAST_PORT:
        raise ValueError(f"{text} does not end with a port")
    if host.startswith("[") and host.endswith("]") and "%" not in host:
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    return normalize_host(host), int(port)


def write_place(place: Place) -> str:
    """Return *place* in the form that ``parse_place`` reads."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def normalize_host(text: str) -> str:
    """Return a host name in lower case without a trailing dot, or an IPv4 address. Raises ValueError for others."""
    name = text.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text} is not a host name")
    if name.replace(".", "").isdigit() or name.startswith("0x"):
        return str(ipaddress.IPv4Address(name))  # raises for the other notations that the system accepts
    return name


def is_public(address: Address) -> bool:
    """Return whether an address, or the IPv4 address that it embeds, is on the public internet."""
    if (inner := _embedded(address)) is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv6Address) and (address.teredo is not None or address.scope_id is not None):
        return False
    return address.is_global and not address.is_multicast


def is_link_local(address: Address) -> bool:
    """Return whether an address, or the IPv4 address that it embeds, is link-local, as metadata services of clouds."""
    return (_embedded(address) or address).is_link_local


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
