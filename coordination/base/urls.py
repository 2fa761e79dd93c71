"""URLs of databases and Redis in the forms of the libraries, and in a form for people."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

_SQLITE_OPTIONS = frozenset({"timeout", "cached_statements"})


def masked(url: str) -> str:
    """Return *url* with its password replaced by asterisks; in doubt, too much is masked."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "sqlite":
        return url
    if "@" in rest:
        # The last "@": an unquoted password may contain others.
        credentials, _, place = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        rest = f"{user}:***@{place}" if colon else f"{user}@{place}"
    return f"{scheme}://" + re.sub(r"(?i)(password=)[^&#]*", r"\1***", rest)


def broker_url(url: str) -> str:
    """Return the Redis *url* in kombu's form: ``redis+socket://…?virtual_host=0`` for a socket."""
    parts = redis_parts(url)
    if is_socket(parts):
        return url_of_socket("redis+socket", parts, "virtual_host")
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in dict(parse_qsl(parts.query)):
        # Without it, kombu does not check the server's certificate.
        return parts._replace(query="&".join(filter(None, [parts.query, "ssl_cert_reqs=required"]))).geturl()
    return parts.geturl()


def client_url(url: str) -> str:
    """Return the Redis *url* in redis-py's form: ``unix://…?db=0`` for a socket."""
    parts = redis_parts(url)
    return url_of_socket("unix", parts, "db") if is_socket(parts) else parts.geturl()


def socket_url(path: Path, password: str) -> str:
    """Return the URL of a server on the socket *path*, in the form of the settings."""
    return f"unix://:{quote(password, safe='')}@{quote(str(path), safe='/')}?db=0"


def is_socket(parts: SplitResult) -> bool:
    """Return whether the server listens on a socket of this machine."""
    return parts.scheme in {"unix", "redis+socket"}


def redis_parts(url: str) -> SplitResult:
    """Split *url*, with the database of a TCP server always in the path. Raises ValueError if it is not a Redis URL."""
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
        if unknown := options.keys() - {"db", "virtual_host"}:
            raise ValueError(f"a socket has no option {', '.join(sorted(unknown))}")
        database = options.get("db", options.get("virtual_host", "0"))
    else:
        database = options.pop("db", "") or unquote(parts.path).strip("/") or "0"
        parts = parts._replace(path=f"/{database}", query=urlencode(options))
    if not re.fullmatch(r"\d{1,5}", database, re.ASCII):
        raise ValueError("the number of its database is not a number")
    return parts


def url_of_socket(scheme: str, parts: SplitResult, option: str) -> str:
    """Return a socket's URL for *scheme*; *option*: its name for the database's number."""
    options = dict(parse_qsl(parts.query))
    database = options.get("db", options.get("virtual_host", "0"))
    credentials = quote(unquote(parts.username or ""), safe="")
    if parts.password is not None:
        credentials += f":{quote(unquote(parts.password), safe='')}"
    # Both libraries decode exactly one layer of quoting.
    path = quote(unquote(parts.path), safe="/")
    return f"{scheme}://{credentials}{'@' if credentials else ''}{path}?{option}={database}"


def store_url(text: str) -> str:
    """Return a database's URL in SQLAlchemy's form. Raises ValueError, with a reason if possible."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "sqlite":
        return _sqlite_url(rest)
    if not separator or scheme not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise ValueError
    if "#" in rest:
        raise ValueError("it has a bare '#'; special characters in a password are written as %XX")
    where, _, query = rest.partition("?")
    authority, slash, name = where.partition("/")
    credentials, at, servers = authority.rpartition("@")
    hosts = [_host_and_port(server) for server in servers.split(",")]
    options = _options(query)
    if len(hosts) > 1 or hosts[0][0].startswith(("/", "@")):
        # A socket's folder or several servers cannot stand in front of a path; libpq also takes them as options.
        host_options: dict[str, str] = {"host": ",".join(host for host, _ in hosts)}
        if any(port for _, port in hosts):
            host_options["port"] = ",".join(port for _, port in hosts)
        options = [*((key, value) for key, value in host_options.items() if key not in dict(options)), *options]
        servers, slash = "", "/"
    query = urlencode(options, quote_via=quote)
    return (
        f"postgresql+psycopg://{_quote_credentials(credentials)}{at}{servers}{slash}{name}{'?' if query else ''}{query}"
    )


def _quote_credentials(credentials: str) -> str:
    """Return user and password with every special character as %XX, also an unquoted @."""
    return ":".join(quote(unquote(part), safe="") for part in credentials.split(":", 1)) if credentials else ""


def _host_and_port(server: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(?P<port>\d{0,5}))?", server, re.ASCII)
    if match is None:
        raise ValueError("its host or port cannot be read; special characters in a password are written as %XX")
    return unquote(match["host"]).strip("[]"), match["port"] or ""


def _options(query: str) -> list[tuple[str, str]]:
    """Return the options of the query as libpq reads them: a plus is literal, except between words of ``options``."""
    pairs = [part.partition("=") for part in query.split("&") if part]
    return [
        (key, unquote(value.replace("+", " ") if key == "options" else value))
        for key, value in ((unquote(name), text) for name, _, text in pairs)
    ]


def _sqlite_url(rest: str) -> str:
    location, question, query = rest.partition("?")
    path = unquote(location.removeprefix("/"))
    if not location.startswith("/") or path in {"", ":memory:"}:
        raise ValueError("it names no file, and a database in memory cannot be shared by several processes")
    if unknown := {name for name, _ in parse_qsl(query, keep_blank_values=True)} - _SQLITE_OPTIONS:
        raise ValueError(f"the URL of a file has no option {', '.join(sorted(unknown))}")
    file = Path(path).expanduser().absolute()
    return f"sqlite:///{quote(os.path.normpath(file), safe='/')}{question}{query}"
