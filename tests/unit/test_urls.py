"""URLs of Redis for the broker: its server's certificate is checked unless the URL itself says otherwise."""

from __future__ import annotations

import pytest

from coordination.urls import broker_url


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("rediss://h:6380/0", "rediss://h:6380/0?ssl_cert_reqs=required"),
        ("rediss://h:6380/0?socket_timeout=5", "rediss://h:6380/0?socket_timeout=5&ssl_cert_reqs=required"),
        ("rediss://h:6380/0?ssl_cert_reqs=none", "rediss://h:6380/0?ssl_cert_reqs=none"),
        ("redis://h:6379/0?socket_timeout=5", "redis://h:6379/0?socket_timeout=5"),
    ],
)
def test_the_brokers_certificate_is_checked_unless_the_url_says_no(written: str, meant: str) -> None:
    assert broker_url(written) == meant
