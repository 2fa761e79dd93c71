"""A runner that tells its job what it needs to know, and hears what the job says of itself."""

from __future__ import annotations

from dataclasses import replace

from coordination.domain.agents.prompts import FEEDBACK
from coordination.domain.jobs.last_lines import as_text, last_lines
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.attempt import review
from workers.attempt.agent_channel import Report
from workers.attempt.prompting import Prompting
from workers.runners.base import Control, Runner

_FAILED = "It failed: "
_MOST_LINES = 40


class Told:
    """Wraps the runner of one attempt. *written*: its claim before the outputs of others were filled in."""

    def __init__(self, runner: Runner, prompting: Prompting, written: Claim, report: Report) -> None:
        self._runner = runner
        self._prompting = prompting
        self._written = written
        self._report = report

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the job. Raises Refused when the project's words for its prompt cannot be rendered."""
        result = self._runner.run(self._prompting.prompted(self._written, claim, reports=True), control)
        return _with_feedback(claim, review.after(claim, self._report.settle(result), control))


def _with_feedback(claim: Claim, result: AttemptEnd) -> AttemptEnd:
    """*result*, from which an agent's next attempt is told how this one failed, unless it is told something else.

    What a gate has said of an earlier attempt still holds when this one did not come that far.
    """
    ended = result.outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
    if not ended or "prompt" not in claim.work or FEEDBACK in result.carry:
        return result
    before = claim.carried.get(FEEDBACK)
    if before and not str(before).startswith(_FAILED):
        return result
    printed = as_text(last_lines(claim.work, result.output, result.log, most=_MOST_LINES))
    told = f"{_FAILED}{result.error or result.outcome}" + (f"\n{printed}" if printed else "")
    return replace(result, carry={**result.carry, FEEDBACK: told})
