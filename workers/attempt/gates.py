"""What must pass before a task counts as completed: commands, run one after the other where the job has worked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from coordination.base.clock import monotonic
from coordination.base.durations import show_duration
from coordination.domain.jobs.checkouts import Gate
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.domain.tasks.events import EventType
from workers.runners import environment, usage_file
from workers.runners.base import Control
from workers.runners.output import Capture, one_line
from workers.runners.process import Launcher, death_sentence
from workers.runners.process_watch import Interruption
from workers.runners.program import cannot_start, run_program

_KEPT = 64 * 1024  # bytes of each gate's output
_TOLD = 8_000  # characters of it that the next attempt is told
_NAMED = 120
_COMMAND_TOLD = 2_000


@dataclass(frozen=True, slots=True)
class GateResult:
    """What came of the gates. ``log``: what each printed. ``failed``: the sentence for the first that did not pass.

    ``feedback``: what the next attempt has to know. ``interruption``: somebody ended the attempt meanwhile.
    """

    log: str
    usage: tuple[Usage, ...] = ()
    failed: str | None = None
    feedback: str | None = None
    interruption: Interruption | None = None

    @property
    def passed(self) -> bool:
        """Whether all of them did."""
        return self.failed is None and self.interruption is None


def judge(gates: Sequence[Gate], claim: Claim, control: Control, launcher: Launcher, folder: str) -> GateResult:
    """Run *gates* in *folder*, until one does not pass. Raises OSError or ValueError when one cannot be started."""
    said: list[str] = []
    with environment.Scratch(control.scratch, claim) as scratch:
        spending = usage_file.following(scratch.costs, control)
        failure: tuple[Gate, str, str] | None = None
        interruption: Interruption | None = None
        for gate in gates:
            name = one_line(gate.called, _NAMED)
            if control.stop_reason is not None:  # not even for a moment: it may cost money
                interruption = Interruption.asked(control.stop_reason)
                break
            if not os.path.isdir(folder):  # noqa: PTH112 - as runners look
                failure = (gate, f"the folder {folder} is gone", "")
                break
            began = monotonic()
            out = Capture(min(_KEPT, control.output_limit))
            ran = run_program(
                launcher,
                ["/bin/sh", "-c", f"exec 2>&1\n{gate.run}"],
                replace(claim, timeout=gate.timeout, stall_timeout=None),
                control,
                variables=_variables(claim, scratch),
                folder=folder,
                feed=out.feed,
                announced=False,
                write=control.places(folder),
                glance=spending.look,
            )
            took = timedelta(seconds=monotonic() - began)
            interruption = ran.interruption
            timed_out = interruption is not None and interruption.outcome is Outcome.TIMED_OUT
            if interruption is not None and not timed_out:
                break
            why = interruption.error if interruption is not None else _why(ran.exit_code)
            interruption = None
            said.append(f"[gate {name}] {why or 'passed'} ({show_duration(took)})\n{out.text().rstrip()}".rstrip())
            told = {"gate": name, "passed": why is None, "took": round(took.total_seconds(), 3)}
            control.event(EventType.PROGRESS, told if why is None else told | {"why": why})
            if why is not None:
                failure = (gate, why, out.text())
                break
        spent, warnings = spending.end()
    log = usage_file.with_warnings("\n".join(said), warnings) or ""
    if failure is None:
        return GateResult(log, spent, interruption=interruption)
    gate, why, printed = failure
    sentence = f"gate {one_line(gate.called, _NAMED)!r} failed: {why}"
    return GateResult(log, spent, failed=sentence, feedback=_feedback(gate, why, printed))


def applied(result: AttemptEnd, verdict: GateResult, *, limit: int) -> AttemptEnd:
    """The job's *result* with what its gates said and spent, ended by them if they did not pass."""
    kept = Capture(limit)
    kept.feed("\n".join(filter(None, [(result.log or "").rstrip(), verdict.log])).encode("utf-8", errors="replace"))
    after = replace(result, log=kept.text() or None, usage=(*result.usage, *verdict.usage))
    if verdict.interruption is not None:
        return replace(after, outcome=verdict.interruption.outcome, error=verdict.interruption.error)
    if verdict.failed is not None:
        carry = {**result.carry, "feedback": verdict.feedback}
        return replace(after, outcome=Outcome.FAILED, error=verdict.failed, carry=carry)
    return after


def not_started(result: AttemptEnd, error: OSError | ValueError) -> AttemptEnd:
    """What surrounds the job could not be started: by our own fault, which waits, or for good."""
    failed = cannot_start(error)
    return replace(result, outcome=failed.outcome, error=failed.error, retryable=failed.retryable)


def _why(exit_code: int | None) -> str | None:
    if exit_code == 0:
        return None
    if exit_code is None:
        return "it did not end"
    return death_sentence(exit_code) if exit_code < 0 else f"exit status {exit_code}"


def _variables(claim: Claim, scratch: environment.Scratch) -> Mapping[str, str]:
    of_job: dict[str, Any] = claim.work.get("env", {})
    return environment.inherited() | of_job | environment.of_attempt(claim, scratch)


def _feedback(gate: Gate, why: str, printed: str) -> str:
    name = f"The gate {gate.name!r}" if gate.name else "A gate"
    parts = [f"{name} did not pass: {why}.", f"Its command: {gate.run[:_COMMAND_TOLD]}"]
    text = printed.strip()
    if text:
        cut = len(text) > _TOLD
        parts.append(f"{'The end of what' if cut else 'What'} it printed:\n{text[-_TOLD:]}")
    return "\n".join(parts)
