"""What a job may reach over the network: all, nothing, or a list of hosts with their ports. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_PORT = re.compile(r"[0-9]{1,5}")
_LAST_PORT = 65_535
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address behind a translator, in the last 32 bits

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Place = tuple[str, int]
"""A host, as ``host_of`` writes it, and a port."""


class NetworkMode(StrEnum):
    """How far."""

    ON = "on"
    OFF = "off"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class Network:
    """What may be reached. *places*: for LISTED, which."""

    reach: NetworkMode = NetworkMode.ON
    places: frozenset[Place] = frozenset()

    def allows(self, host: str, port: int) -> bool:
        """Whether it names that host, a name or an address, with that port. ``host_of`` has written it."""
        return (host, port) in self.places

    def may_connect(self, address: Address, port: int) -> bool:
        """Whether a name that is allowed may lead to that address: to one that is not public, only if it is named."""
        return is_public(address) or self.allows(str(address), port)


def parse_network(text: str) -> Network:
    """The network that *text* means. ValueError when it means none."""
    word = text.strip().lower()
    if word in (NetworkMode.ON, NetworkMode.OFF):
        return Network(NetworkMode(word))
    places = frozenset(place_of(part.strip()) for part in text.split(",") if part.strip())
    if not places:
        raise ValueError
    return Network(NetworkMode.LISTED, places)


def place_of(text: str) -> Place:
    """Host and port of HOST:PORT, where an IPv6 address stands in brackets. ValueError."""
    host, separator, port = text.rpartition(":")
    if not separator or not _PORT.fullmatch(port) or not 1 <= int(port) <= _LAST_PORT:
        raise ValueError(f"{text} does not end with a port")
    if host.startswith("[") and host.endswith("]") and "%" not in host:
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    return host_of(host), int(port)


def host_of(text: str) -> str:
    """A name in lower case without a dot at its end, or an IPv4 address. ValueError for what is neither."""
    name = text.lower().removesuffix(".")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text} is no name of a host")
    if name.replace(".", "").isdigit() or name.startswith("0x"):
        return str(ipaddress.IPv4Address(name))  # the system knows more ways to write one: none of these is taken
    return name


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, also where it stands for an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.scope_id is not None:
            return False
    return address.is_global and not address.is_multicast
