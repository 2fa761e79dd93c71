"""The repository, branch, commit and project that a folder belongs to. Writes nothing.

Runs the ``git`` program, by argument list and with a time limit, and works without it. The remote called origin names
the project, else the only remote, else the first by name; so clones and worktrees have the same identity. A remote that
is another folder is followed to that folder's own remote. A project without a remote (a repository without one, a plain
folder, no git at all) is identified by this machine and the path of the repository, the same for all its worktrees.
Nothing is written to the folder, so a read-only one works.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from coordination.base.errors import Refused
from coordination.base.wording import LONGEST_SHOWN_PATH, excerpt
from coordination.domain.projects.projects import identity_of, local_identity, short_name

GIT_LIMIT = timedelta(seconds=10)
_MAX_HOPS = 8
_MAX_TOPS = 1000
_MACHINE_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")

# Programs that a repository's configuration names are not started. It may belong to another user, as in containers,
# because only names are read, never its files.
_SAFE_OPTIONS = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.pager=cat"),
    *("-c", "safe.directory=*"),
)
# Variables that would point git at another repository than the folder's.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
_UNATTENDED = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
# A line of "git remote -v"; a partial clone's filter follows the URL.
_FETCH_LINE = re.compile(r"(?P<name>[^\t]+)\t(?P<url>.+) \(fetch\)(?: \[.*\])?$")


@dataclass(frozen=True, slots=True)
class GitCheckout:
    """A folder and the project that it belongs to."""

    root: Path
    identity: str
    name: str

    @property
    def branch(self) -> str | None:
        """The branch that is checked out now; None without a branch or a repository."""
        return _git(self.root, "symbolic-ref", "--quiet", "--short", "HEAD")

    @property
    def head(self) -> str | None:
        """The commit that is checked out now; None without a commit or a repository."""
        return _git(self.root, "rev-parse", "--quiet", "--verify", "HEAD^{commit}", "--")


def checkout_of(path: str | Path = ".") -> GitCheckout:
    """Return the checkout of *path* (a folder or file). Raises Refused when the path does not exist."""
    folder = _folder(path)
    repository = _repository(folder)
    if repository is None:
        identity = local_identity(str(folder), machine())
        return GitCheckout(root=folder, identity=identity, name=short_name(identity))
    root, common = repository
    identity = _identity(root, common, _remote(root))
    return GitCheckout(root=root, identity=identity, name=short_name(identity))


def changes_on(folder: str | Path, branch: str) -> tuple[int, int, int] | None:
    """Return how many files, added lines and deleted lines a merge of *branch* into the checkout *folder* would change.

    Return None without such a repository, branch or checkout.
    """
    statistics = _git(
        Path(folder), "diff", "--shortstat", "--no-ext-diff", "--no-textconv", f"HEAD...refs/heads/{branch}", "--"
    )
    if statistics is None:
        return None
    counts = {unit: int(count) for count, unit in re.findall(r"(\d+) (file|insertion|deletion)", statistics)}
    return counts.get("file", 0), counts.get("insertion", 0), counts.get("deletion", 0)


def top_folder(path: str | Path = ".") -> Path:
    """Return the top folder of the checkout of *path*, or its folder. Raises Refused when the path does not exist."""
    folder = _folder(path)
    mark = _mark(folder)
    cached = _tops.get(folder)
    if cached is not None and mark is not None and cached[0] == mark:
        return cached[1]
    repository = _repository(folder)
    top_folder = folder if repository is None else repository[0]
    if mark is not None:
        if len(_tops) >= _MAX_TOPS:
            _tops.clear()
        _tops[folder] = mark, top_folder
    return top_folder


_Mark = tuple[Path, int, int]
_tops: dict[Path, tuple[_Mark, Path]] = {}
"""The top folders of folders, because asking git starts a process; valid while the nearest ``.git`` is the same."""


def _mark(folder: Path) -> _Mark | None:
    """Return the ``.git`` that git would find from *folder*, with its state; None without one."""
    for place in (folder, *folder.parents):
        try:
            status = (place / ".git").stat()
        except OSError:
            continue
        return place, status.st_ino, status.st_mtime_ns
    return None


def _folder(path: str | Path) -> Path:
    try:
        folder = Path(path).resolve(strict=True)
    except (OSError, RuntimeError):
        raise Refused(f"There is no folder {excerpt(str(path), LONGEST_SHOWN_PATH)}") from None
    return folder if folder.is_dir() else folder.parent


def machine() -> str:
    """Return the id of this machine for local identities: the one of its installation, else its name."""
    for name in _MACHINE_FILES:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            return text
    return os.uname().nodename


def _repository(folder: Path) -> tuple[Path, Path] | None:
    """Return the top folder and the repository that all its worktrees share; None without a repository or git."""
    both = _git(folder, "rev-parse", "--git-common-dir", "--show-toplevel")
    # In a bare repository, which has no top folder, the first command fails.
    common, _, top_folder = (both or _git(folder, "rev-parse", "--git-common-dir") or "").partition("\n")
    if not common:
        return None
    shared = (folder / common).resolve()
    return (Path(top_folder) if top_folder else shared), shared


def _remote(root: Path) -> str | None:
    """Return the URL that names the project, after git's own rewriting (url.….insteadOf)."""
    matches = (_FETCH_LINE.match(line) for line in (_git(root, "remote", "-v") or "").split("\n"))
    urls = {match["name"]: match["url"] for match in matches if match}
    return urls.get("origin") or (urls[min(urls)] if urls else None)


def _identity(root: Path, common: Path, remote: str | None) -> str:
    """Return the remote's identity, followed through folders that are remotes; else the last repository's path."""
    this_machine = machine()
    own = local_identity(str(common), this_machine)
    for _ in range(_MAX_HOPS):
        if remote is None:
            return own
        path = _as_folder(remote, root)
        if path is None:
            try:
                return identity_of(remote, machine=this_machine)
            except Refused:
                return own  # a URL that only a remote helper of the user's git understands
        repository = _repository(path) if path.is_dir() else None
        own = local_identity(str(repository[1] if repository else path), this_machine)
        if repository is None:
            return own
        root = repository[0]
        remote = _remote(root)
    return own


def _as_folder(remote: str, root: Path) -> Path | None:
    """Return the folder that *remote* means for git: a path relative to *root* or a file URL; else None."""
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
    """Return git's output; None when it fails, takes too long, or is not installed."""
    try:
        result = subprocess.run(
            ["git", *_SAFE_OPTIONS, *arguments],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name not in _MISLEADING} | _UNATTENDED,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=GIT_LIMIT.total_seconds(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(result.stdout).rstrip("\n") if result.returncode == 0 else None
