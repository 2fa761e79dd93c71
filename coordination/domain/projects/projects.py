"""Projects, their statuses, and the identity that a git remote gives them. Pure: no git, no disk.

An identity is ``host[:port]/path``: ``git@host:org/repo.git``, ``https://host/org/repo`` and
``ssh://git@host:22/org/repo`` are one project. What it keeps and what it drops:

  * the host is lower-cased; a port is kept only if it is not the protocol's default;
  * users, passwords, tokens, queries and fragments are always dropped;
  * the path keeps every group at any depth; ``.git`` and slashes at its ends, ``.`` and ``..`` are removed;
  * the path's case is kept, except on the public forges that ignore it: elsewhere ``Shop`` and ``shop``
    may be two repositories;
  * the addresses of one repository on a public forge become one (``domain/projects/forges.py``);
  * a path on this machine is not a shared name: ``local:/srv/git/shop``, with the machine's tag when it is known.

``identity_of`` returns identities unchanged. For that, ``host:22/org/repo`` without a user is read as host and port;
with a user, it is what git reads: the path ``22/org/repo``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote, unquote

from coordination.base.errors import Refused
from coordination.base.wording import LONGEST_SHOWN_PATH, excerpt
from coordination.domain.projects.forges import CASE_BLIND, canonical_address, decodes_short_form


class ProjectStatus(StrEnum):
    """The statuses of a project."""

    PLANNING = "planning"  # nothing was submitted yet
    ACTIVE = "active"  # has submitted work
    ON_HOLD = "on_hold"  # paused by a person: its tasks are not claimed
    COMPLETED = "completed"  # its work has ended; new work makes it active again
    ARCHIVED = "archived"  # refuses new work until a person activates it


P = ProjectStatus

# Target status -> the statuses that it can be reached from.
MOVES: Mapping[ProjectStatus, frozenset[ProjectStatus]] = {
    P.PLANNING: frozenset({P.ON_HOLD}),
    P.ACTIVE: frozenset({P.PLANNING, P.ON_HOLD, P.COMPLETED, P.ARCHIVED}),
    P.ON_HOLD: frozenset({P.PLANNING, P.ACTIVE}),
    P.COMPLETED: frozenset({P.ACTIVE, P.ON_HOLD}),
    P.ARCHIVED: frozenset({P.PLANNING, P.ACTIVE, P.ON_HOLD, P.COMPLETED}),
}


@dataclass(frozen=True, slots=True)
class Project:
    """One project as stored. Totals (cost, sessions, tasks) are derived from its rows.

    ``stopped``: a stop covers it, whatever its status is.
    """

    id: str
    workspace_id: str
    name: str
    identity: str
    path: str | None
    description: str | None
    status: ProjectStatus
    settings: dict[str, Any]
    budgets: dict[str, Any]
    model_restrictions: dict[str, Any]
    metadata: dict[str, Any]
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    stopped: bool = False


LOCAL = "local:"
_LONGEST = 2000

# The protocols' default ports.
_PORTS = {"ssh": 22, "git": 9418, "http": 80, "https": 443, "ftp": 21, "ftps": 990, "rsync": 873}

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+-]*::")  # git's prefix that names a remote helper
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
_TAG = re.compile(r"local:(?P<tag>[a-z0-9]*)(?P<path>/.*)", re.DOTALL)
_PATH_SAFE = "/~@+:=,!$&'()*"
_HINT = "Write it like git@example.org:group/repo.git or https://example.org/group/repo"


def identity_of(remote: str, *, machine: str = "") -> str:
    """Return the identity of the repository that *remote* names. Raises Refused when it names none.

    *machine* distinguishes paths on different machines (see local_identity); remotes with a host do not need it.
    """
    text = remote.strip()
    if not text or any(ord(char) < ord(" ") or char == "\x7f" for char in text):
        raise _refused(remote)
    identity = _identity(text, remote, machine)
    if len(identity) > _LONGEST:
        raise _refused(remote)
    return identity


def local_identity(path: str, machine: str = "") -> str:
    """Return the identity of a folder without a remote: a short tag of its machine and its absolute path.

    The tag is a digest, because the machine's own id is private. Moving the folder changes the identity; an alias then
    keeps the project, as for a renamed remote.
    """
    if _WINDOWS.match(path):
        path = "/" + (path[0].upper() + path[1:]).replace("\\", "/")
    if not path.startswith("/"):
        raise Refused(
            f"{excerpt(path, LONGEST_SHOWN_PATH)} is not an absolute path", hint="Write the path from the root on"
        )
    return f"{LOCAL}{_tag(machine)}{_path(path, path)}"


def short_name(identity: str) -> str:
    """Return the last part of an identity, for people: ``shop`` of ``example.org/acme/shop``."""
    last = unquote(identity.rstrip("/").rpartition("/")[2])
    return last.removeprefix(LOCAL) or "root"


def _identity(text: str, remote: str, machine: str) -> str:
    if text.startswith(LOCAL):
        tagged = _TAG.fullmatch(text)
        if tagged is None:
            raise _refused(remote)
        path = _path(_decode(tagged["path"], remote), remote)
        return f"{LOCAL}{tagged['tag'] or _tag(machine)}{path}"
    if helper := _HELPER.match(text):
        return _identity(text[helper.end() :], remote, machine)
    if url := _URL.fullmatch(text):
        return _of_url(url["scheme"].lower(), url["rest"], remote, machine)
    if text.startswith("/") or _WINDOWS.match(text):
        return local_identity(text, machine)
    if text.startswith((".", "~")):
        raise Refused("A relative path names no project", hint="Write the absolute path, or a URL")
    return _of_short(text, remote)


def _of_url(scheme: str, rest: str, remote: str, machine: str) -> str:
    plain = "+".join(part for part in scheme.split("+") if part != "git") or "git"
    if plain == "file":
        host, _, path = rest.partition("/")
        share = f"/{path}" if host in ("", "localhost") else f"/{host}/{path}"
        return local_identity(_decode(share, remote), machine)
    if plain not in _PORTS:
        raise _refused(remote)
    user, behind = _split_authority(rest)
    authority, _, path = _before_query(behind).partition("/")
    host, port = _host_and_port(authority, remote)
    port = None if port == _PORTS[plain] else port
    return _build(host, port, _decode(path, remote), remote, user=unquote(user) if plain == "ssh" else "")


def _of_short(text: str, remote: str) -> str:
    """Parse ``[user@]host:path``, git's short form for SSH with a literal path, or an identity with an encoded path."""
    user, rest = _split_user(text)
    bracketed = re.fullmatch(r"\[(?P<inside>[^\]]+)\](?P<port>:\d+(?=/))?(?P<after>[:/].*)", rest, re.DOTALL)
    if bracketed:
        inside = bracketed["inside"].rpartition("@")[2]
        authority = f"[{inside}]{bracketed['port'] or ''}" if _is_ipv6(inside) else inside
        encoded, path = bracketed["after"][0] == "/", bracketed["after"][1:]
    else:
        before, slash, behind = rest.partition("/")
        name, colon, tail = before.partition(":")
        with_port = not user and bool(slash) and tail.isascii() and tail.isdecimal()
        encoded = not colon or with_port
        authority, path = (before, behind) if encoded else (name, rest[len(name) + 1 :])
    host, port = _host_and_port(authority, remote)
    if encoded or decodes_short_form(host):
        path = _decode(_before_query(path), remote)
    return _build(host, port, path, remote, user=user)


def _build(host: str, port: int | None, path: str, remote: str, *, user: str) -> str:
    if port == _PORTS["ssh"]:
        port = None  # SSH's port, whatever the scheme is
    host, port, parts = canonical_address(host, port, _parts(path, remote), user.partition(":")[0])
    if host in CASE_BLIND:
        parts = _without_git([part.lower() for part in parts], remote)
    clean = _encode(parts, remote)
    return f"{host}:{port}{clean}" if port is not None else f"{host}{clean}"


def _path(path: str, remote: str) -> str:
    """Return the normalized path of a folder, with a slash in front."""
    return _encode(_parts(path, remote, local=True), remote)


def _parts(path: str, remote: str, *, local: bool = False) -> list[str]:
    """Return the parts of the normalized path: every group kept, no .git, no dots."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts and not local:
                raise _refused(remote)
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return _without_git(parts, remote, local=local)


def _without_git(parts: list[str], remote: str, *, local: bool = False) -> list[str]:
    """Return *parts* without a .git at their end. Raises Refused when nothing is left."""
    while parts and parts[-1].endswith(".git"):
        parts[-1] = parts[-1].removesuffix(".git")
        if not parts[-1]:
            parts.pop()
    if not parts and not local:
        raise _refused(remote)
    return parts


def _encode(parts: list[str], remote: str) -> str:
    try:
        return "/" + quote("/".join(parts), safe=_PATH_SAFE, errors="surrogateescape")
    except UnicodeEncodeError:
        raise _refused(remote) from None


def _decode(path: str, remote: str) -> str:
    decoded = unquote(path, errors="surrogateescape")
    if any(ord(char) < ord(" ") for char in decoded):
        raise _refused(remote)
    return decoded


def _host_and_port(authority: str, remote: str) -> tuple[str, int | None]:
    """Return normalized host and port of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    authority_match = re.fullmatch(
        r"(\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(:(?P<port>\d{0,6}))?", authority, re.ASCII
    )
    if authority_match is None:
        raise _refused(remote)
    port = int(authority_match["port"]) if authority_match["port"] else None
    if port is not None and not 0 < port < 1 << 16:
        raise _refused(remote)
    if authority_match["v6"] is not None:
        if not _is_ipv6(authority_match["v6"]):
            raise _refused(remote)
        return f"[{ipaddress.IPv6Address(authority_match['v6'])}]", port
    host = unquote(authority_match["name"]).rstrip(".").lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise _refused(remote) from None
    if not _HOST.fullmatch(host):
        raise _refused(remote)
    return host, port


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _split_authority(rest: str) -> tuple[str, str]:
    """Return (user part, rest) of the text behind ``scheme://``.

    The last @ before the path ends the user part, even behind a ? or #, because people paste raw passwords. A password
    with a slash shows as a port that is not a number; then the last @ of all ends it.
    """
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    if "@" in path and not re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host):
        user, _, behind = rest.rpartition("@")
        return user, behind
    return user, host + slash + path


def _split_user(text: str) -> tuple[str, str]:
    """Return (user part, rest) of the short form. With a password, the last @ that leaves a host ends it."""
    head = text.partition("/")[0]
    signs = [] if text.startswith("[") else [at.start() for at in re.finditer("@", head)]
    fits = [at for at in signs if re.match(r"\[[^\]]+\]|[^:/@\[\]]+[:/]", text[at + 1 :])]
    if not fits:
        return "", text
    mark = fits[-1] if ":" in text[: fits[0]] else fits[0]
    return text[:mark], text[mark + 1 :]


def _before_query(text: str) -> str:
    return re.split(r"[?#]", text, maxsplit=1)[0]


def _tag(machine: str) -> str:
    return hashlib.sha256(b"coordination:" + machine.encode()).hexdigest()[:12] if machine else ""


def _refused(remote: str) -> Refused:
    shown = _before_query(remote.strip().rpartition("@")[2])[:80]
    return Refused(f"{excerpt(shown)} names no git repository" if shown else "A git remote cannot be empty", hint=_HINT)
