"""What the figures are held against: for each row what has to be reached and what is wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How far a figure came."""

    WANT = "want"  # as good as wanted
    MUST = "must"  # good enough
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Goal:
    """Two marks in the unit of the figure; ``more``: higher is better."""

    must: float
    want: float
    more: bool = False

    def verdict(self, value: float) -> Verdict:
        """How far *value* came."""
        for mark, verdict in ((self.want, Verdict.WANT), (self.must, Verdict.MUST)):
            if value >= mark if self.more else value <= mark:
                return verdict
        return Verdict.MISSED

    def shown(self, mark: float, unit: str) -> str:
        """One mark as a person reads it: ``>= 3x``, ``<= 25 ms``."""
        space = "" if unit == "x" else " "
        return f"{'>=' if self.more else '<='} {mark:g}{space}{unit}"


THROUGHPUT_BESIDE_CELERY = Goal(3, 10, more=True)
THROUGHPUT_BESIDE_DBOS = Goal(4, 15, more=True)
OVERSPEND = Goal(0, 0)
WITH_BUDGETS = Goal(0.7, 0.9, more=True)
PROJECTS = Goal(2, 1.2)
SMALL_PLAN = Goal(0.5, 0.2)
HOP = Goal(0.5, 0.12)
FAN = Goal(0.3, 0.08)
WORKFLOW = Goal(0.3, 0.07)
ONE_OFF = Goal(0.4, 0.7, more=True)
REPLAY = Goal(1.3, 1.05)
RUNNING_OVERHEAD = Goal(5, 1)  # per cent of a core
WAKEUP_P50, WAKEUP_P99 = Goal(25, 5), Goal(100, 25)  # milliseconds
IDLE_MEMORY = Goal(150, 90)  # MB
CHAT_MEMORY = Goal(200, 120)  # MB over an idle worker process
SUBMISSION = Goal(2, 0.7)  # seconds
HELP, EMBEDDED_UP, FIRST_TASK = Goal(0.3, 0.15), Goal(3, 1.5), Goal(5, 2.5)  # seconds
LISTING = Goal(2, 1)  # CPU seconds
SUMMARY = Goal(50, 20)  # milliseconds
IMPORT = Goal(20, 50, more=True)  # thousand lines a second
AGENT = Goal(0.1, 0.02)  # seconds a task
READY = Goal(0.3, 0.1)  # seconds beyond a bare worktree
KILLED, KILLED_ON_A_LIVE_HOST = Goal(35, 35), Goal(35, 2)  # seconds
