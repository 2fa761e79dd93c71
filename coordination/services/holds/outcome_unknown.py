"""Jobs that must not be repeated and were ended in the middle: a person says whether they were done."""

from __future__ import annotations

from coordination.domain.tasks.next_steps import Situation
from coordination.domain.tasks.tasks import BlockReason
from coordination.services.holds.base import Hold


class OutcomeUnknown(Hold):
    """Held by the end of an attempt; a retry by a person takes the reason away."""

    name = "outcome_unknown"
    reason = BlockReason.OUTCOME_UNKNOWN
    words = "it must not be repeated, and was ended in the middle: nobody knows if it was done"
    remark = " may have been done, and must not be repeated"
    situation = Situation.OUTCOME_UNKNOWN


HOLD = OutcomeUnknown()
