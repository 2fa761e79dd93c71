"""Read an attempt's HEAD log: which commits the job made, left, replaced or dropped.

git writes a line for each move of HEAD into the worktree's own log. The line shows whether a commit was made
(``commit``, ``merge``, ``cherry-pick`` …), replaced (``commit (amend)``, ``rebase``) or left (``checkout``, ``reset``).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from workers.runners import untrusted_files

_MOST = 64 << 20  # bytes of one attempt's log
_LINE = re.compile(r"([0-9a-f]{40,64}) ([0-9a-f]{40,64}) [^\t]*> (\d+) [^\t]*(?:\t(.*))?")
_REPLACES = re.compile(r"[^:]*(amend|rebase|filter-branch)")
_MOVES_ONLY = re.compile(r"checkout|reset|[^:]*\((start|abort)\)")


@dataclass(slots=True)
class HeadHistory:
    """Commit ids. ``at``: the last HEAD, None when git kept no log.

    ``departed``: a checkout moved HEAD away, so they may contain work that HEAD does not. ``replaced``: rewritten.
    ``dropped``: a reset moved HEAD away. ``resets``: times of resets, in seconds since 1970.
    """

    at: str | None = None
    created: set[str] = field(default_factory=set)
    departed: list[str] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)


def log_of(record: Path) -> Path:
    """Return the path of the HEAD log of the worktree with this record."""
    return record / "logs" / "HEAD"


def log_size(record: Path) -> int:
    """Return the size of the log in bytes. Creates the log where git would keep none, as in a bare repository."""
    path = log_of(record)
    if not path.exists() and not (record / "reftable").exists():
        with contextlib.suppress(OSError):
            untrusted_files.make_folder(path.parent)
            untrusted_files.write_new(path, b"")
    return untrusted_files.size(path)


def created_by(record: Path) -> str | None:
    """Return the e-mail address of the creator of the worktree with this record."""
    try:
        line = untrusted_files.read(log_of(record)).decode(errors="replace").partition("\n")[0]
    except OSError:
        return None
    match = re.search(r"<([^>]*)> \d+ ", line)
    return None if match is None else match[1]


def read(record: Path, since: int, begin: str) -> HeadHistory:
    """Return the history since the log had *since* bytes, when HEAD was at *begin*."""
    history = HeadHistory()
    try:
        data = untrusted_files.read(log_of(record), most=since + _MOST)
    except OSError:
        return history
    if len(data) < since:
        return history  # expired, or a log of another worktree
    history.at = begin
    for line in data[since:].decode("utf-8", errors="replace").split("\n"):
        if match := _LINE.fullmatch(line):
            _follow(history, match[1], match[2], match[4] or "")
            if (match[4] or "").startswith("reset"):
                history.resets.append(int(match[3]))
    return history


def _follow(history: HeadHistory, old: str, new: str, what: str) -> None:
    if history.at is not None and old != history.at:
        history.departed.append(history.at)  # a branch without commits leaves no line of its own
    if _REPLACES.match(what):
        history.replaced.add(old)
    elif what.startswith("checkout"):
        history.departed.append(old)
    elif what.startswith("reset") and old != new:
        history.dropped.append(old)
    if not _MOVES_ONLY.match(what):
        history.created.add(new)
    history.places.append(new)
    history.at = new
