"""Where one stands: which repository, branch and commit a folder belongs to, and so which project. Writes nothing.

Asks the ``git`` program, by argument list and with a limit on its time; works without it. The remote called origin
names the project, else the only remote, else the first by name; clones and worktrees so give the same identity. A
remote that is another folder is followed to that folder's own remote. What no remote names (a repository without one,
a plain folder, no git at all) is named by its place: this machine and the path of the repository, the same from every
worktree of it. Nothing is left behind in the folder to achieve that, so it works where one may only read.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from coordination.base.errors import Refused
from coordination.base.wording import LONGEST_SHOWN_PATH, excerpt
from coordination.domain.projects.projects import identity_of, local_identity, short_name, without_credentials

GIT_LIMIT = timedelta(seconds=10)
_MOST_HOPS = 8
_MOST_TOPS = 1000
_MACHINE_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")

# Nothing that a repository's own configuration names is started; and as only its names are read, never its files, it
# may belong to somebody else (containers mount such folders all the time).
_QUIET = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.pager=cat"),
    *("-c", "safe.directory=*"),
)
# Variables that would point git at another repository than the folder's.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
# As "git remote -v" says where one fetches from; a partial clone's filter stands behind it.
_FETCHED = re.compile(r"(?P<name>[^\t]+)\t(?P<url>.+) \(fetch\)(?: \[.*\])?$")


@dataclass(frozen=True, slots=True)
class GitCheckout:
    """A folder and the project it belongs to. ``remote`` carries no credentials."""

    root: Path
    identity: str
    name: str
    remote: str | None = None

    @property
    def branch(self) -> str | None:
        """The branch that is checked out now; None when there is none, or no repository."""
        return _git(self.root, "symbolic-ref", "--quiet", "--short", "HEAD")

    @property
    def head(self) -> str | None:
        """The commit that is checked out now; None before the first one, or without a repository."""
        return _git(self.root, "rev-parse", "--quiet", "--verify", "HEAD^{commit}", "--")


def here(path: str | Path = ".") -> GitCheckout:
    """The checkout that *path* (a folder or file) lies in; Refused when there is no such path."""
    folder = _folder(path)
    found = _repository(folder)
    if found is None:
        identity = local_identity(str(folder), machine())
        return GitCheckout(root=folder, identity=identity, name=short_name(identity))
    root, common = found
    remote = _remote(root)
    identity = _identity(root, common, remote)
    return GitCheckout(
        root=root,
        identity=identity,
        name=short_name(identity),
        remote=None if remote is None else without_credentials(remote),
    )


def changes_on(folder: str | Path, branch: str) -> tuple[int, int, int] | None:
    """How many files, added and deleted lines a merge of *branch* would bring to what is checked out in *folder*.

    None when that cannot be said here: there is no such repository, branch or checkout.
    """
    said = _git(
        Path(folder), "diff", "--shortstat", "--no-ext-diff", "--no-textconv", f"HEAD...refs/heads/{branch}", "--"
    )
    if said is None:
        return None
    numbers = dict[str, int]()
    for number, what in re.findall(r"(\d+) (file|insertion|deletion)", said):
        numbers[what] = int(number)
    return numbers.get("file", 0), numbers.get("insertion", 0), numbers.get("deletion", 0)


def top(path: str | Path = ".") -> Path:
    """The top folder of the checkout that *path* lies in, or its folder; Refused when there is no such path."""
    folder = _folder(path)
    mark = _mark(folder)
    known = _tops.get(folder)
    if known is not None and mark is not None and known[0] == mark:
        return known[1]
    found = _repository(folder)
    place = folder if found is None else found[0]
    if mark is not None:
        if len(_tops) >= _MOST_TOPS:
            _tops.clear()
        _tops[folder] = mark, place
    return place


_Mark = tuple[Path, int, int]
_tops: dict[Path, tuple[_Mark, Path]] = {}
"""What git said of folders, each question being a process; good for as long as the same ``.git`` is the nearest."""


def _mark(folder: Path) -> _Mark | None:
    """The ``.git`` that git would find from *folder* on, as it is now; None where there is none."""
    for place in (folder, *folder.parents):
        try:
            found = (place / ".git").stat()
        except OSError:
            continue
        return place, found.st_ino, found.st_mtime_ns
    return None


def _folder(path: str | Path) -> Path:
    try:
        folder = Path(path).resolve(strict=True)
    except (OSError, RuntimeError):
        raise Refused(f"There is no folder {excerpt(str(path), LONGEST_SHOWN_PATH)}") from None
    return folder if folder.is_dir() else folder.parent


def machine() -> str:
    """What tells this machine from others in local identities: the id made when it was installed, else its name."""
    for name in _MACHINE_FILES:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            return text
    return os.uname().nodename


def _repository(folder: Path) -> tuple[Path, Path] | None:
    """(top folder, the repository that all its worktrees share), or None outside of git or without git."""
    both = _git(folder, "rev-parse", "--git-common-dir", "--show-toplevel")
    # A bare repository has no top folder, and refuses the question as a whole.
    common, _, top_folder = (both or _git(folder, "rev-parse", "--git-common-dir") or "").partition("\n")
    if not common:
        return None
    shared = (folder / common).resolve()
    return (Path(top_folder) if top_folder else shared), shared


def _remote(root: Path) -> str | None:
    """The address that names the project, after git's own rewriting (url.….insteadOf)."""
    listed = (_FETCHED.match(line) for line in (_git(root, "remote", "-v") or "").split("\n"))
    urls = {found["name"]: found["url"] for found in listed if found}
    return urls.get("origin") or (urls[min(urls)] if urls else None)


def _identity(root: Path, common: Path, remote: str | None) -> str:
    """The remote's identity, through folders that are remotes of each other; the repository's own place at the end."""
    this_machine = machine()
    own = local_identity(str(common), this_machine)
    for _ in range(_MOST_HOPS):
        if remote is None:
            return own
        path = _as_folder(remote, root)
        if path is None:
            try:
                return identity_of(remote, machine=this_machine)
            except Refused:
                return own  # an address that only a helper of the person's git understands
        next_one = _repository(path) if path.is_dir() else None
        own = local_identity(str(next_one[1] if next_one else path), this_machine)
        if next_one is None:
            return own
        root = next_one[0]
        remote = _remote(root)
    return own


def _as_folder(remote: str, root: Path) -> Path | None:
    """The folder that *remote* means, if it means one as git sees it: a path, from *root* on, or a file address."""
    if remote.startswith("file://"):
        host, _, rest = remote.removeprefix("file://").partition("/")
        return Path("/" + unquote(rest)).resolve() if host in ("", "localhost") else None
    colon, slash = remote.find(":"), remote.find("/")
    if "://" in remote or (colon >= 0 and (slash < 0 or colon < slash)):
        return None
    path = Path(os.path.normpath(root / remote))
    if not path.exists() and path.with_name(f"{path.name}.git").is_dir():
        path = path.with_name(f"{path.name}.git")  # git tries that too
    return path.resolve()


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None when it refuses, takes too long, or is not there."""
    try:
        done = subprocess.run(
            ["git", *_QUIET, *arguments],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=GIT_LIMIT.total_seconds(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout).rstrip("\n") if done.returncode == 0 else None


def _environment(base: Mapping[str, str] | None = None, drop: Sequence[str] = _MISLEADING) -> dict[str, str]:
    kept = {name: value for name, value in (os.environ if base is None else base).items() if name not in drop}
    return {**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
