"""How long jobs of each kind take, as this process saw it, and so how many of them may share a message.

A kind starts at one task a message, doubles while all of a bundle were short, halves at one that was not quite, and
falls back to one at the first long one: a long job must never wait in a bundle, nor a short one behind it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

SHORT = timedelta(milliseconds=20)
LONG = timedelta(milliseconds=100)
LARGEST = 64
_REMEMBERED = 1000


@dataclass(slots=True)
class _Kind:
    bundle: int = 1
    streak: int = 0


class Kinds:
    """What was learnt, by (project, kind). Thread-safe; forgets the least recently used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def learn(self, project_id: str, kind: str, took: timedelta) -> None:
        """A job of this kind took so long."""
        with self._lock:
            known = self._kinds.setdefault((project_id, kind), _Kind())
            self._kinds.move_to_end((project_id, kind))
            if len(self._kinds) > _REMEMBERED:
                self._kinds.popitem(last=False)
            if took > LONG:
                known.bundle, known.streak = 1, 0
                return
            if took > SHORT:  # a busy machine, or on the way to being long
                known.bundle, known.streak = max(known.bundle // 2, 1), 0
                return
            known.streak += 1
            if known.streak >= known.bundle:
                known.bundle, known.streak = min(known.bundle * 2, LARGEST), 0

    def bundle(self, project_id: str, kind: str) -> int:
        """How many tasks of this kind may share a message, 1 for a kind that is long or not known."""
        with self._lock:
            known = self._kinds.get((project_id, kind))
            return known.bundle if known else 1
