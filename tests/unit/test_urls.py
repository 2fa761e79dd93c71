"""Test URLs of Redis and of databases, as people write them and as the libraries need them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg import dialect

from coordination.base.urls import broker_url, store_url


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


DATABASES = [
    ("postgresql://h/d", {"host": "h", "dbname": "d"}),
    ("postgres://u@h:5433/d", {"host": "h", "port": 5433, "dbname": "d", "user": "u"}),
    ("postgresql://u:p%40s%2Fs%3A%23@h/d", {"host": "h", "dbname": "d", "user": "u", "password": "p@s/s:#"}),
    ("postgresql://u:p@ss:w+d%@h/d", {"host": "h", "dbname": "d", "user": "u", "password": "p@ss:w+d%"}),
    ("postgresql://d%40corp:p@h/d", {"host": "h", "dbname": "d", "user": "d@corp", "password": "p"}),
    ("postgresql://%2Fvar%2Frun%2Fpg/d", {"host": "/var/run/pg", "dbname": "d"}),
    ("postgresql://u:p@%2Fvar%2Frun%2Fpg:5433/d", {"host": "/var/run/pg", "port": "5433", "dbname": "d", "user": "u"}),
    ("postgresql://%40abstract/d", {"host": "@abstract", "dbname": "d"}),
    ("postgresql:///d?host=/var/run/pg", {"host": "/var/run/pg", "dbname": "d"}),
    ("postgresql:///d?host=%2Fvar%2Frun%2Fpg&port=5433", {"host": "/var/run/pg", "port": "5433", "dbname": "d"}),
    ("postgresql://h1:5432,h2:5433/d", {"host": "h1,h2", "port": "5432,5433", "dbname": "d"}),
    ("postgresql://h1,h2/d?target_session_attrs=read-write", {"host": "h1,h2", "target_session_attrs": "read-write"}),
    ("postgresql://h1:5432,[::1]/d", {"host": "h1,::1", "port": "5432,"}),
    ("postgresql://[2001:db8::1]:5433/d", {"host": "2001:db8::1", "port": 5433}),
    ("postgresql:///?service=shop", {"service": "shop"}),
    ("postgresql://", {}),
    ("postgresql://h/my%20db", {"host": "h", "dbname": "my db"}),
    ("postgresql://h/d?sslmode=verify-full&sslrootcert=/a+b%20c", {"sslmode": "verify-full", "sslrootcert": "/a+b c"}),
    ("postgresql://h/d?options=-csearch_path%3Da,b", {"options": "-csearch_path=a,b"}),
    ("postgresql://h/d?options=-c%20search_path%3Da+--jit=on", {"options": "-c search_path=a --jit=on"}),
    ("postgresql://h/d?options=-csearch_path=a", {"options": "-csearch_path=a"}),
]


@pytest.mark.parametrize(("written", "said"), DATABASES)
def test_a_database_is_connected_to_as_libpq_would(written: str, said: dict[str, object]) -> None:
    stored = store_url(written)

    result = dialect().create_connect_args(make_url(stored))[1]

    assert {name: result.get(name) for name in said} == said
    assert store_url(stored) == stored


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://u:p/w@h/d",
        "postgresql://u:p?w@h/d",
        "postgresql://u:p#w@h/d",
        "postgresql://h:port/d",
        "postgresql://h1:1,h2:x/d",
        "postgresql://[::1/d",
        "sqlite:///:memory:",
        "sqlite:///%3Amemory%3A",
        "sqlite://",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///x.db?mode=memory",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x.db?mode",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_a_reason(written: str) -> None:
    with pytest.raises(ValueError, match=r"special characters|no file|no option"):
        store_url(written)


@pytest.mark.parametrize("name", ["a b", "50%", "why?", "c#", "\u00fc", "a&b=c", "+", "%2F"])
def test_a_file_may_have_any_name(name: str) -> None:
    stored = store_url(f"sqlite:////srv/{quote(name, safe='')}.db")

    assert make_url(stored).database == f"/srv/{name}.db"
    assert store_url(stored) == stored
