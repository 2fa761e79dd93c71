"""What a job sees in the strict sandbox: bubblewrap's namespaces with the system, the programs, and what is its own.

Each process of a job is started in its own namespaces of processes, mounts, IPC and names, and of the network where
that is not open. bubblewrap's first process leads the session and the group, as a job's own does without it, and all
that it starts is in that group, with the marks. The first process inside ends with the group, and whatever it has
started with it: the kernel sees to that. The signal that bubblewrap can send at its parent's death is not asked for:
the kernel sends it at the death of the thread that started it, and threads of a worker end before its interpreters.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordination.base import host
from workers.runners import sandbox_exec

_FORWARD = str(Path(__file__).with_name("forward.py"))
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
# What programs look up: users, names of hosts, certificates, time, libraries. No passwords, no keys.
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


@dataclass(frozen=True, slots=True)
class SandboxView:
    """What one process sees besides the system and the programs. *folder*: where it starts, with its checkout.

    *write* and *read*: folders and files, by paths without links. *hide*: what it does not see, wherever that lies.
    """

    folder: str
    write: Sequence[str]
    read: Sequence[str]
    hide: Sequence[str]


def private_places(own: Iterable[str]) -> list[str]:
    """Folders that are empty at first, may be written to, and go with the process.

    Not those that *own* places lie in: what a job writes beside its folder is to be refused, not lost.
    """
    return [place for place in _PRIVATE_PLACES if not any(f"{one}/".startswith(f"{place}/") for one in own)]


class Namespaces:
    """Makes commands that run in namespaces. *program*: bwrap. *proxy*: the only way out, a socket of the worker's."""

    def __init__(self, program: str, *, network: bool = True, proxy: str | None = None) -> None:
        self._program = program
        self._network = network and proxy is None
        self._proxy = proxy
        self._programs = [place for place in (*program_places(), *_of_path()) if os.path.exists(place)]  # noqa: PTH110
        self._system = list(_system())

    def around(self, arguments: Sequence[str], view: SandboxView, *, status: int) -> tuple[list[str], dict[str, Any]]:
        """The command that becomes bwrap, and what ``confine`` has to look over. OSError for a link among the places.

        *status*: a descriptor to which bwrap writes whether the program was started, see ``was_started``.
        """
        mounts = _Mounts(view.hide)
        for place in self._programs:
            mounts.add(place, _RO)
        if self._proxy is not None:
            mounts.add(self._proxy, _RO)
        for place in view.read:
            with contextlib.suppress(OSError):  # what a link leads to has to be named itself
                mounts.add(place, _RO, checked=True)
        top = _checkout(view.folder)
        for place in (view.folder, *top):
            mounts.add(place, _RO, checked=True)
        for place in (*view.write, *(sandbox_exec.repository_of(view.folder) if top else ())):
            mounts.add(place, _RW, checked=True)
        command = [self._program, "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        command += [] if self._network else ["--unshare-net"]
        command += [*self._system, *mounts.arguments(), "--chdir", view.folder, "--json-status-fd", str(status), "--"]
        order = {"same": mounts.same, "proxy": self._proxy, "forward": _FORWARD}
        return [*command, *arguments], order


def was_started(status: bytes) -> bool:
    """Whether bwrap got as far as starting the program, by what it wrote."""
    return b'"exit-code"' in status


def find_program() -> str | None:
    """Where bwrap is."""
    return shutil.which("bwrap")


class _Mounts:
    """Collects what is to be mounted where, each place once, and leaves out what is there anyway."""

    def __init__(self, hidden: Iterable[str]) -> None:
        self.same: dict[str, list[int]] = {}
        self._kinds = {place: _RO for place in _SYSTEM if not os.path.islink(place)}  # noqa: PTH114
        self._kinds |= {f"/etc/{name}": _RO for name in _CONFIGURATION}
        self._static = frozenset(self._kinds)
        self._kinds |= dict.fromkeys(_PRIVATE_PLACES, _PRIVATE)
        self._kinds |= dict.fromkeys(hidden, _HIDDEN)

    def add(self, place: str, kind: str, *, checked: bool = False) -> None:
        """One more place, if it is there. *checked*: reached through no link, now and when it is mounted. OSError."""
        if place == "/" or (self._kinds.get(place) == _RW and kind == _RO):
            return
        if checked:
            fd = sandbox_exec.open_place(place)
            if fd is None:
                return
            found = os.fstat(fd)
            os.close(fd)
            self.same[place] = [found.st_dev, found.st_ino]
        self._kinds[place] = kind

    def arguments(self) -> Iterator[str]:
        """bwrap's, the outer places first."""
        kinds = self._kinds
        for place in sorted(kinds, key=lambda one: (one.count("/"), one)):
            kind = kinds[place]
            around = next((kinds[str(one)] for one in Path(place).parents if str(one) in kinds), None)
            if kind == _HIDDEN:
                if around in (_RO, _RW) or place in self._static:
                    yield from _hidden(place)
            elif kind in (_RO, _RW) and place not in self._static and around not in (kind, _RW):
                yield from ("--bind" if kind == _RW else "--ro-bind", place, place)


def _hidden(place: str) -> Iterator[str]:
    try:
        found = os.lstat(place)
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode):
        yield from ("--tmpfs", place)
    elif not stat.S_ISLNK(found.st_mode):
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
    """The folders of this Python, of its packages, and of ours."""
    ours = (Path(host.__file__).resolve().parents[1], Path(sandbox_exec.__file__).resolve().parents[1])
    python = (sys.prefix, sys.base_prefix, *map(os.path.realpath, (sys.prefix, sys.base_prefix)))
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    packages = [place for place in sys.path if place in named or Path(place).name in _PACKAGES]
    places = (*python, *map(str, ours), *map(os.path.realpath, filter(os.path.isabs, packages)))
    return tuple(dict.fromkeys(places))


def _of_path() -> Iterator[str]:
    """The folders in which the worker looks for programs, but for those that hold all of the home folder."""
    for place in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(place) and not _holds_the_home_folder(place):  # noqa: PTH117
            yield os.path.normpath(place)


def _holds_the_home_folder(place: str) -> bool:
    return f"{os.environ.get('HOME', '')}/".startswith(f"{place.rstrip('/')}/")


def _checkout(folder: str) -> list[str]:
    """The top of the checkout that a folder is in: what is missing from it would look deleted to git.

    A repository of all of the home folder is none of a project.
    """
    for place in (Path(folder), *Path(folder).parents):
        if os.path.lexists(place / ".git"):
            return [] if _holds_the_home_folder(str(place)) else [str(place)]
    return []
