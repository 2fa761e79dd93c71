"""URLs of databases and of Redis in the forms that the libraries want, and as people may see them. Pure."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit


def masked(url: str) -> str:
    """*url* with its password replaced by asterisks; whatever is in doubt is hidden too."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "sqlite":
        return url
    if "@" in rest:
        # The last "@": a password that was pasted in unquoted may hold others.
        who, _, place = rest.rpartition("@")
        user, colon, _ = who.partition(":")
        rest = f"{user}:***@{place}" if colon else f"{user}@{place}"
    return f"{scheme}://" + re.sub(r"(?i)(password=)[^&#]*", r"\1***", rest)


def broker_url(url: str) -> str:
    """The Redis *url* as kombu wants it: ``redis+socket://…?virtual_host=0`` for a socket."""
    parts = redis_parts(url)
    if is_socket(parts):
        return written_for_socket("redis+socket", parts, "virtual_host")
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in dict(parse_qsl(parts.query)):
        # Without it kombu does not check the server's certificate.
        return parts._replace(query="&".join(filter(None, [parts.query, "ssl_cert_reqs=required"]))).geturl()
    return parts.geturl()


def client_url(url: str) -> str:
    """The Redis *url* as redis-py wants it: ``unix://…?db=0`` for a socket."""
    parts = redis_parts(url)
    return written_for_socket("unix", parts, "db") if is_socket(parts) else parts.geturl()


def socket_url(path: Path, password: str, *, database: int = 0) -> str:
    """The URL of a server that listens on the socket *path*, in the form that the settings take."""
    return f"unix://:{quote(password, safe='')}@{quote(str(path), safe='/')}?db={database}"


def is_socket(parts: SplitResult) -> bool:
    """Whether the server listens on a socket of this machine."""
    return parts.scheme in {"unix", "redis+socket"}


def redis_parts(url: str) -> SplitResult:
    """*url* in its parts, the database of a TCP server always in the path; ValueError when it is no Redis URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "its host or port cannot be read; special characters in a password are written as %XX"
        ) from None
    if "://" not in url or parts.scheme not in {"redis", "rediss", "unix", "redis+socket"}:
        raise ValueError
    if parts.fragment:
        raise ValueError("it has a bare '#'; special characters are written as %XX")
    options = dict(parse_qsl(parts.query))
    if is_socket(parts):
        if parts.hostname or not parts.path.startswith("/") or len(parts.path) == 1:
            raise ValueError("the socket's path must be absolute, after three slashes")
        if strangers := options.keys() - {"db", "virtual_host"}:
            raise ValueError(f"a socket has no option {', '.join(sorted(strangers))}")
        database = options.get("db", options.get("virtual_host", "0"))
    else:
        database = options.pop("db", "") or unquote(parts.path).strip("/") or "0"
        parts = parts._replace(path=f"/{database}", query=urlencode(options))
    if not re.fullmatch(r"\d{1,5}", database, re.ASCII):
        raise ValueError("the number of its database is not a number")
    return parts


def written_for_socket(scheme: str, parts: SplitResult, option: str) -> str:
    """The URL of a socket, as *scheme* writes it; *option*: how it calls the database's number."""
    options = dict(parse_qsl(parts.query))
    database = options.get("db", options.get("virtual_host", "0"))
    who = quote(unquote(parts.username or ""), safe="")
    if parts.password is not None:
        who += f":{quote(unquote(parts.password), safe='')}"
    # Both libraries undo exactly one layer of quoting.
    path = quote(unquote(parts.path), safe="/")
    return f"{scheme}://{who}{'@' if who else ''}{path}?{option}={database}"


def store_url(text: str) -> str:
    """The URL of a database as SQLAlchemy reads it; ValueError with a reason, if there is one to give."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "sqlite":
        return _sqlite_url(rest)
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise ValueError
    try:
        parts = urlsplit(f"postgresql://{rest}")
        _ = parts.port  # parsed only when asked for
    except ValueError:
        raise ValueError(
            "its host or port cannot be read; special characters in a password are written as %XX"
        ) from None
    if parts.fragment:
        raise ValueError("it has a bare '#'; special characters in a password are written as %XX")
    return f"postgresql+psycopg://{rest}"


def _sqlite_url(rest: str) -> str:
    written, question, query = rest.partition("?")
    path = unquote(written.removeprefix("/"))
    if not written.startswith("/") or path in {"", ":memory:"}:
        raise ValueError("it names no file, and a database in memory cannot be shared by several processes")
    file = Path(path).expanduser().absolute()
    return f"sqlite:///{quote(os.path.normpath(file), safe='/')}{question}{query}"
