"""Measured durations of jobs by kind, which decide how many tasks of a kind may share a message.

A kind starts at one task per message and doubles while all jobs of a bundle are short. A bundle has at most ``MOMENT``
of work, and one long job resets its kind to one, so that no task waits behind a long one.

A Python function that is new in its project starts with its statistics over all projects, because the same name mostly
means the same work. For an unseen kind, the first jobs of other new kinds in its project are the only evidence: if
several in a row were short, a few tasks of unseen kinds may share a message, until one of them is long.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta

LONG = timedelta(milliseconds=100)
MOMENT = timedelta(milliseconds=20)
"""The most expected work of one bundle."""

LARGEST = 64
_REMEMBERED = 10_000
_MOST_UNSEEN = 7  # tasks of unseen kinds per message
_ANY = ""  # the kind that collects first jobs, and the project that collects shared kinds; no real one has this name
_SHARED = "python:"  # kinds that projects share; the first word of a shell command is not specific enough
_WEIGHT = 0.1  # of the newest job in the mean
_DOUBT = 0.0005  # seconds


@dataclass(slots=True)
class _Kind:
    bundle: int = 1
    streak: int = 0
    mean: float | None = None  # seconds

    def learn(self, took: timedelta) -> None:
        """Add the duration of one job."""
        seconds = took.total_seconds()
        before = seconds if self.mean is None else self.mean
        # An outlier on a busy machine counts little; a lasting increase still shows after a few jobs.
        self.mean = before + _WEIGHT * (min(seconds, 4 * before + _DOUBT) - before)
        if took > LONG:
            self.bundle, self.streak = 1, 0
        elif took > MOMENT:  # the machine is busy, or jobs of this kind become longer
            self.bundle, self.streak = max(self.bundle // 2, 1), 0
        else:
            self.streak += 1
            if self.streak >= self.bundle:
                self.bundle, self.streak = min(self.bundle * 2, LARGEST), 0

    def bundle_size(self) -> int:
        """Return how many jobs may share a message."""
        if self.bundle == 1 or self.mean is None:
            return 1
        return max(1, min(self.bundle, int(MOMENT.total_seconds() / max(self.mean, 1e-6))))


class DurationStats:
    """Statistics by (project, kind). Thread-safe. Forgets the least recently used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def learn(self, project_id: str, kind: str, took: timedelta) -> None:
        """Add the duration of one job of this kind."""
        with self._lock:
            stats = self._kinds.get((project_id, kind))
            if stats is None or stats.mean is None:
                self._get_or_add(project_id, _ANY).learn(took)
            for project in (project_id, _ANY) if kind.startswith(_SHARED) else (project_id,):
                self._get_or_add(project, kind).learn(took)

    def _get_or_add(self, project_id: str, kind: str) -> _Kind:
        stats = self._kinds.get((project_id, kind))
        if stats is None:
            shared = self._kinds.get((_ANY, kind))
            stats = _Kind() if shared is None or kind == _ANY else replace(shared)
            self._kinds[project_id, kind] = stats
            if len(self._kinds) > _REMEMBERED:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end((project_id, kind))
        return stats

    def bundle(self, project_id: str, kind: str) -> int:
        """Return how many tasks of this kind may share a message: 1 for a long or unseen kind."""
        with self._lock:
            stats = self._kinds.get((project_id, kind)) or self._kinds.get((_ANY, kind))
            if stats is not None:
                return stats.bundle_size()
            unseen = self._kinds.get((project_id, _ANY))
            if unseen is None or unseen.bundle <= _MOST_UNSEEN:
                return 1  # too few jobs to judge: in a small plan, every job has its own message
            return min(unseen.bundle_size(), _MOST_UNSEEN)
