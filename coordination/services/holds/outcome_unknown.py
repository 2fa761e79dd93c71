"""Interrupted jobs that must not be repeated: a person decides whether they completed."""

from __future__ import annotations

from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import Hold


class OutcomeUnknownHold(Hold):
    """Set by the end of an attempt; a retry by a person removes it."""

    name = "outcome_unknown"
    reason = BlockReason.OUTCOME_UNKNOWN
    blocker_text = "it must not be repeated, and was interrupted: whether it completed is unknown"
    obstacle_text = " may have completed, and must not be repeated"
    situation = Situation.OUTCOME_UNKNOWN


HOLD = OutcomeUnknownHold()
