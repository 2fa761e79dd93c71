"""The strict sandbox: namespaces by bubblewrap with the system, the programs, and the job's own files.

Each process of a job is started in its own PID, mount, IPC and UTS namespaces, and in a network namespace unless the
network is open. bubblewrap's first process leads the session and group, as the job's process does without it, and its
descendants are in the group and have the markers. When the first process inside ends with the group, the kernel ends
all others inside. bubblewrap's --die-with-parent is not used: the kernel would send the signal when the starting thread
ends, and threads of a worker end before its interpreters.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from coordination.base import host
from workers.runners import sandbox_exec

_FORWARD = str(Path(__file__).with_name("forward.py"))
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
# Files in /etc that programs need: users, host names, certificates, time, libraries. No passwords, no keys.
_CONFIGURATION = (
    *("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf", "gai.conf", "services", "protocols"),
    *("localtime", "timezone", "locale.alias", "locale.conf", "default/locale", "os-release", "debian_version"),
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem"),
    *("ca-certificates", "ca-certificates.conf", "crypto-policies", "alternatives", "mime.types"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "gitconfig", "shells", "profile", "profile.d", "bash.bashrc"),
    *("inputrc", "terminfo", "fonts", "magic", "java", "java-17-openjdk", "java-21-openjdk", "nodejs", "python3"),
)
_PRIVATE_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - the job's own

_PACKAGES = ("site-packages", "dist-packages")

_RO, _RW, _HIDDEN, _PRIVATE = "ro", "rw", "hidden", "private"


def private_places(own: Iterable[str]) -> list[str]:
    """Return the directories that are private to a process: empty at first, writable, deleted with it.

    Without those that contain one of *own*: writing beside a job's directory must fail instead of being lost.
    """
    return [place for place in _PRIVATE_PLACES if not any(f"{path}/".startswith(f"{place}/") for path in own)]


class Namespaces:
    """Builds commands that run in namespaces. *program*: bwrap. *proxy*: a socket of the worker, the only network."""

    def __init__(self, program: str, *, network: bool = True, proxy: str | None = None) -> None:
        self._program = program
        self._network = network and proxy is None
        self._proxy = proxy
        self._programs = [place for place in (*program_places(), *_of_path()) if os.path.exists(place)]  # noqa: PTH110
        self._system = list(_system())

    def command(
        self, folder: str, *, write: Sequence[str], read: Sequence[str], hide: Sequence[str], status: int
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the bwrap command without the program, and the data that ``sandbox_exec`` checks.

        The process sees, besides the system and programs: *folder*, where it starts, with its checkout; *write* and
        *read*, paths without links; but not *hide*. *status*: a descriptor to which bwrap writes whether the program
        was started, see ``was_started``. Raises OSError for a link in a path.
        """
        mounts = _Mounts(hide)
        for place in self._programs:
            mounts.add(place, _RO)
        if self._proxy is not None:
            mounts.add(self._proxy, _RO)
        for place in read:
            with contextlib.suppress(OSError):  # the target of a link must be named itself
                mounts.add(place, _RO, checked=True)
        top = _checkout(folder)
        for place in (folder, *top):
            mounts.add(place, _RO, checked=True)
        for place in (*write, *(sandbox_exec.repository_of(folder) if top else ())):
            mounts.add(place, _RW, checked=True)
        command = [self._program, "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        command += [] if self._network else ["--unshare-net"]
        command += [*self._system, *mounts.arguments(), "--chdir", folder, "--json-status-fd", str(status), "--"]
        return command, {"same": mounts.same, "proxy": self._proxy, "forward": _FORWARD}


def was_started(status: bytes) -> bool:
    """Return whether bwrap has started the program, from the status that it wrote."""
    return b'"exit-code"' in status


class _Mounts:
    """Collects the mounts, each path once, without those that an outer mount provides already."""

    def __init__(self, hidden: Iterable[str]) -> None:
        self.same: dict[str, list[int]] = {}
        self._kinds = {place: _RO for place in _SYSTEM if not os.path.islink(place)}  # noqa: PTH114
        self._kinds |= {f"/etc/{name}": _RO for name in _CONFIGURATION}
        self._static = frozenset(self._kinds)
        self._kinds |= dict.fromkeys(_PRIVATE_PLACES, _PRIVATE)
        self._kinds |= dict.fromkeys(hidden, _HIDDEN)

    def add(self, place: str, kind: str, *, checked: bool = False) -> None:
        """Add a path, if it exists. *checked*: raise OSError for a link, now and when it is mounted."""
        if place == "/" or (self._kinds.get(place) == _RW and kind == _RO):
            return
        if checked:
            fd = sandbox_exec.open_place(place)
            if fd is None:
                return
            status = os.fstat(fd)
            os.close(fd)
            self.same[place] = [status.st_dev, status.st_ino]
        self._kinds[place] = kind

    def arguments(self) -> Iterator[str]:
        """Yield bwrap's arguments, outer paths first."""
        kinds = self._kinds
        for place in sorted(kinds, key=lambda path: (path.count("/"), path)):
            kind = kinds[place]
            around = next((kinds[str(parent)] for parent in Path(place).parents if str(parent) in kinds), None)
            if kind == _HIDDEN:
                if around in (_RO, _RW) or place in self._static:
                    yield from _hide(place)
            elif kind in (_RO, _RW) and place not in self._static and around not in (kind, _RW):
                yield from ("--bind" if kind == _RW else "--ro-bind", place, place)


def _hide(place: str) -> Iterator[str]:
    try:
        status = os.lstat(place)
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode):
        yield from ("--tmpfs", place)
    elif not stat.S_ISLNK(status.st_mode):
        yield from ("--ro-bind", "/dev/null", place)


def _system() -> Iterator[str]:
    for place in _SYSTEM:
        if os.path.islink(place):  # noqa: PTH114
            yield from ("--symlink", os.readlink(place), place)  # noqa: PTH115
        elif os.path.isdir(place):  # noqa: PTH112
            yield from ("--ro-bind", place, place)
    for name in _CONFIGURATION:
        if os.path.exists(f"/etc/{name}"):  # noqa: PTH110
            yield from ("--ro-bind", f"/etc/{name}", f"/etc/{name}")
    yield from ("--proc", "/proc", "--dev", "/dev")
    for place in _PRIVATE_PLACES:
        yield from ("--tmpfs", place)
    if os.path.isabs(home := os.environ.get("HOME", "")) and home != "/":  # noqa: PTH117
        yield from ("--dir", home)


@functools.cache
def program_places() -> tuple[str, ...]:
    """Return the directories of this Python, its packages, and this project."""
    ours = (Path(host.__file__).resolve().parents[1], Path(sandbox_exec.__file__).resolve().parents[1])
    python = (sys.prefix, sys.base_prefix, *map(os.path.realpath, (sys.prefix, sys.base_prefix)))
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    packages = [place for place in sys.path if place in named or Path(place).name in _PACKAGES]
    places = (*python, *map(str, ours), *map(os.path.realpath, filter(os.path.isabs, packages)))
    return tuple(dict.fromkeys(places))


def _of_path() -> Iterator[str]:
    """Yield the directories of PATH, except those that contain the home directory."""
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(place) and not _holds_the_home_folder(place):  # noqa: PTH117
            yield os.path.normpath(place)


def _holds_the_home_folder(place: str) -> bool:
    return f"{os.environ.get('HOME', '')}/".startswith(f"{place.rstrip('/')}/")


def _checkout(folder: str) -> list[str]:
    """Return the top of the checkout of a directory, because files that are not visible would look deleted to git.

    A repository that contains the home directory does not count.
    """
    for place in (Path(folder), *Path(folder).parents):
        if os.path.lexists(place / ".git"):
            return [] if _holds_the_home_folder(str(place)) else [str(place)]
    return []
