"""When a worker counts as deaf: decided from looks at its slots, its queue and what it has heard. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsumerSample:
    """What is to be seen at one moment. ``heard``: messages so far; ``waiting``: ready work, None when unknown."""

    at: float
    heard: int
    free: bool
    waiting: int | None


class ConsumerCheck:
    """Decides from a row of looks. Pure: it has no clock of its own."""

    def __init__(self, *, patience: float, pause: float) -> None:
        """Deaf after *patience* seconds of looks that come every *pause* seconds."""
        self._patience = patience
        self._longest_gap = 3 * pause + 1.0
        self._last: ConsumerSample | None = None
        self._since: float | None = None

    def deaf_for(self, look: ConsumerSample) -> float | None:
        """For how many seconds work has waited beside free slots, unheard, once that is too long; else None."""
        last, self._last = self._last, look
        waits = look.free and bool(look.waiting)
        # Whoever was stopped itself (SIGSTOP, a laptop's lid) has heard nothing either.
        if last is None or not waits or look.heard != last.heard or look.at - last.at > self._longest_gap:
            self._since = look.at if waits else None
            return None
        if self._since is None:
            self._since = look.at
        silence = look.at - self._since
        return silence if silence >= self._patience else None
