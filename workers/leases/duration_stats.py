"""How long jobs of each kind take, as this process saw it, and so how many of them may share a message.

A kind starts at one task a message and doubles while all of a bundle were short. A bundle never holds more than a
moment's work, and one long job makes the kind start anew: no long job must wait in a bundle, nor a short one behind it.

A Python function that is new in its project begins where it stands over all projects: under one name mostly the same
is done. Of a kind that was never seen it is only known how the first jobs of other new kinds in its project turned out:
where several in a row were short, a few strangers may share a message too, until one of them is long.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta

LONG = timedelta(milliseconds=100)
MOMENT = timedelta(milliseconds=20)
"""How much work, as far as is known, one bundle may hold."""

LARGEST = 64
_REMEMBERED = 10_000
_STRANGERS = 7  # tasks of kinds never seen, at most
_ANY = ""  # the name under which first jobs are remembered, and the project of what all have shown; none has it
_SHARED = "python:"  # kinds that projects share; the first word of a shell command says too little
_WEIGHT = 0.1  # of the newest job in the mean
_DOUBT = 0.0005  # seconds


@dataclass(slots=True)
class _Kind:
    bundle: int = 1
    streak: int = 0
    mean: float | None = None  # seconds

    def learn(self, took: timedelta) -> None:
        """One job took so long."""
        seconds = took.total_seconds()
        before = seconds if self.mean is None else self.mean
        # One that was held up by a busy machine says little; a kind that has really grown is believed soon.
        self.mean = before + _WEIGHT * (min(seconds, 4 * before + _DOUBT) - before)
        if took > LONG:
            self.bundle, self.streak = 1, 0
        elif took > MOMENT:  # a busy machine, or on the way to being long
            self.bundle, self.streak = max(self.bundle // 2, 1), 0
        else:
            self.streak += 1
            if self.streak >= self.bundle:
                self.bundle, self.streak = min(self.bundle * 2, LARGEST), 0

    def fitting(self) -> int:
        """How many may share a message."""
        if self.bundle == 1 or self.mean is None:
            return 1
        return max(1, min(self.bundle, int(MOMENT.total_seconds() / max(self.mean, 1e-6))))


class DurationStats:
    """What was learnt, by (project, kind). Thread-safe; forgets the least recently used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: OrderedDict[tuple[str, str], _Kind] = OrderedDict()

    def learn(self, project_id: str, kind: str, took: timedelta) -> None:
        """A job of this kind took so long."""
        with self._lock:
            known = self._kinds.get((project_id, kind))
            if known is None or known.mean is None:
                self._one(project_id, _ANY).learn(took)
            for each in self._taught(project_id, kind):
                each.learn(took)

    def _taught(self, project_id: str, kind: str) -> list[_Kind]:
        """What a task of this kind says something about: the kind in its project, and perhaps in all."""
        places = (project_id, _ANY) if kind.startswith(_SHARED) else (project_id,)
        return [self._one(place, kind) for place in places]

    def _known(self, project_id: str, kind: str) -> _Kind | None:
        return self._kinds.get((project_id, kind)) or self._kinds.get((_ANY, kind))

    def _one(self, project_id: str, kind: str) -> _Kind:
        known = self._kinds.get((project_id, kind))
        if known is None:
            elsewhere = self._kinds.get((_ANY, kind))
            known = _Kind() if elsewhere is None or kind == _ANY else replace(elsewhere)
            self._kinds[project_id, kind] = known
            if len(self._kinds) > _REMEMBERED:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end((project_id, kind))
        return known

    def bundle(self, project_id: str, kind: str) -> int:
        """How many tasks of this kind may share a message, 1 for a kind that is long or of which nothing is known."""
        with self._lock:
            known = self._known(project_id, kind)
            if known is not None:
                return known.fitting()
            strangers = self._kinds.get((project_id, _ANY))
            if strangers is None or strangers.bundle <= _STRANGERS:
                return 1  # so few say nothing yet: in a small plan every job has its own message, for all to see
            return min(strangers.fitting(), _STRANGERS)
