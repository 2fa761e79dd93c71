"""A runner that tells its job what it needs to know, and hears what the job says of itself."""

from __future__ import annotations

from coordination.domain.attempts import Claim, Result
from workers import supervising
from workers.prompting import Prompting
from workers.reporting import Report
from workers.runners.base import Control, Runner


class Told:
    """Wraps the runner of one attempt. *written*: its claim before the outputs of others were filled in."""

    def __init__(self, runner: Runner, prompting: Prompting, written: Claim, report: Report) -> None:
        self._runner = runner
        self._prompting = prompting
        self._written = written
        self._report = report

    def run(self, claim: Claim, control: Control) -> Result:
        """Run the job. Raises Refused when the project's words for its prompt cannot be rendered."""
        result = self._runner.run(self._prompting.prompted(self._written, claim, reports=True), control)
        return supervising.after(claim, self._report.settle(result), control)
