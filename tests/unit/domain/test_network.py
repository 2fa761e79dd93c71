"""Test the values of COORD_SANDBOX_NETWORK, and which addresses a listed name may resolve to."""

from __future__ import annotations

import ipaddress

import pytest

from coordination.domain.jobs.network import Network, NetworkMode, is_public, parse_network, parse_place


def test_on_and_off() -> None:
    assert parse_network("on") == Network(NetworkMode.ON)
    assert parse_network(" Off ") == Network(NetworkMode.OFF)


def test_a_list() -> None:
    network = parse_network("API.example.org.:443, 127.0.0.1:8000,[::1]:9")

    assert network.mode is NetworkMode.LISTED
    assert network.places == {("api.example.org", 443), ("127.0.0.1", 8000), ("::1", 9)}
    assert network.allows("api.example.org", 443)
    assert not network.allows("api.example.org", 80)
    assert not network.allows("example.org", 443)


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "host", "host:", "host:0", "host:65536", "host:x", ":443", "*.host:443", "http://host:443"),
        *("a b:443", "host:443:443", "[::1:443", "[host]:443", "127.1:80", "2130706433:80", "0x7f.1:80", "-a:1"),
        *("127.0.0.256:80", "[fe80::1%eth0]:80"),
    ],
)
def test_what_it_is_not(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the setting's
        parse_network(text)


def test_what_a_request_names() -> None:
    assert parse_place("Example.ORG.:443") == ("example.org", 443)
    assert parse_place("[::FFFF:1.2.3.4]:443") == (str(ipaddress.ip_address("::ffff:1.2.3.4")), 443)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.1",
            "224.0.0.1",
        ),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1"),
        *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
def test_other_addresses_are_named_or_refused(address: str) -> None:
    parsed_address = ipaddress.ip_address(address)

    assert not is_public(parsed_address)
    assert not parse_network("name:443").may_connect(parsed_address, 443)
    assert Network(NetworkMode.LISTED, frozenset({(str(parsed_address), 443)})).may_connect(parsed_address, 443)
    assert not Network(NetworkMode.LISTED, frozenset({(str(parsed_address), 444)})).may_connect(parsed_address, 443)
