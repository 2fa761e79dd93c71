"""Inform an agent early that others have merged changes of files that it has changed too.

A running agent is informed in the answer to its next report; a later attempt in its prompt.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from coordination.domain.tasks.events import EventType
from workers.runners.base import Control
from workers.runners.output import clean_text
from workers.workspaces.git import LONG, Git, GitFailed, GitInterrupted
from workers.workspaces.worktree import Worktree

_MOST_NAMED = 20
_MOST_COMMITS = 20
_SHORT = 12


def describe_missed(place: Worktree, work: Mapping[str, Any], head: str) -> str:
    """Return a part of the prompt for an agent that continues *work*, a change based on an older commit than *head*."""
    if not work:
        return ""
    base = str(work["base"])
    common = _changed_files(place.git, base, head) & _changed_files(place.git, base, str(work["commit"]))
    return f"\n\n{_sentence(place, base, head, common)}" if common else ""


@contextlib.contextmanager
def announce(place: Worktree, control: Control) -> Iterator[None]:
    """Add news of merges to the answers to a job's reports while it runs in *place*."""
    own_control = Control(scratch=control.scratch)  # a request to stop the job does not end git
    listener = _Listener(place.under(own_control), control)
    control.news = listener.look
    try:
        yield
    finally:
        control.news = None
        listener.close()
        own_control.close()


class _Listener:
    def __init__(self, place: Worktree, control: Control) -> None:
        self._place = place
        self._control = control
        self._lock = threading.Lock()
        self._seen = place.repository.head()
        self._closed = False

    def look(self) -> str | None:
        """Return a sentence on what others have merged since the last call to files changed here, or None."""
        with self._lock, contextlib.suppress(GitFailed, GitInterrupted, OSError):
            return None if self._closed else self._look()
        return None

    def close(self) -> None:
        """Wait for a call in progress and refuse further ones, because the worktree will be deleted."""
        with self._lock:
            self._closed = True

    def _look(self) -> str | None:
        place, before = self._place, self._seen
        head = place.repository.head()
        if head is None or before is None or head == before:
            return None
        common = _changed_files(place.git, before, head) & self._own()
        self._seen = head
        if not common:
            return None
        named = [clean_text(path) for path in sorted(common)[:_MOST_NAMED]]
        self._control.event(EventType.PROGRESS, {"others_merged": head[:_SHORT], "files": named})
        return _sentence(place, before, head, common)

    def _own(self) -> set[str]:
        # No locks, because the job may call git at the same time.
        git = self._place.git.at(self._place.worktree_folder.path, GIT_OPTIONAL_LOCKS="0")
        new = git("ls-files", "--others", "--exclude-standard", "-z", limit=LONG).words
        return _changed_files(git, self._place.start) | set(new)


def _changed_files(git: Git, *commits: str) -> set[str]:
    """Return the files in which two commits differ, or a commit and the directory."""
    compare = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty")
    return set(git(*compare, *commits, "--", limit=LONG).words)


def _sentence(place: Worktree, before: str, head: str, common: set[str]) -> str:
    paths = sorted(common)
    named = [f"- {path}" for path in paths[:_MOST_NAMED]]
    if more := len(paths) - len(named):
        named.append(f"- and {more} more")
    log = ("log", f"--max-count={_MOST_COMMITS}", "--no-merges", "--no-color", "--format=- %h %an: %s")
    commits = place.git(*log, f"{before}..{head}", "--", *paths[:_MOST_NAMED]).out.decode("utf-8", errors="replace")
    files = "\n".join(named)
    return clean_text(f"""Others have merged changes of files that you have changed, too, to {place.repository.branch}:
{files}
in the commits:
{commits.strip()}
"git diff {before[:_SHORT]} {head[:_SHORT]} -- PATH" shows them. Let your change hold beside theirs. Do not merge: \
that is done when you end.""")
