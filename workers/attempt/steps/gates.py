"""Runs a task's gates, one after the other, in the checkout of the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from coordination.domain.jobs.checkouts import Gate, parse_gates
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from coordination.domain.tasks.events import EventType
from workers.attempt.running import Proceed, RunningAttempt, is_unfinished
from workers.runners import environment, usage_file
from workers.runners.output import Capture
from workers.runners.process import Launcher
from workers.runners.program import Interruption, cannot_start
from workers.runners.side_command import SideCommandEnd, run_side_command, short_name

_MOST_FEEDBACK = 8_000  # characters of a gate's output in the feedback
_MOST_COMMAND = 2_000


class GatesStep:
    """Runs the gates after the job; the first that does not pass fails the attempt."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        gates = parse_gates(attempt.claim.options["gates"])
        result = proceed(attempt)
        if not gates or is_unfinished(result):
            return result
        check = partial(self._check, attempt, gates)
        return check(result) if attempt.change is None else attempt.change.check(check, result)

    def _check(self, attempt: RunningAttempt, gates: Sequence[Gate], result: AttemptEnd) -> AttemptEnd:
        """Run *gates* in the job's folder until one does not pass; return *result* with their log, usage and verdict.

        A gate that cannot be started defers the attempt if the machine is at fault, else fails it.
        """
        control, logs, end = attempt.control, list[str](), dict[str, Any]()
        with environment.Scratch(control.scratch, attempt.claim) as scratch:
            usage = usage_file.side_usage_file(scratch.costs, control)
            for gate in gates:
                try:
                    ran = self._run(gate, attempt, scratch, usage.poll)
                except (OSError, ValueError) as error:
                    failed = cannot_start(error)
                    end = {"outcome": failed.outcome, "error": failed.error, "retryable": failed.retryable}
                    break
                if ran.interruption is not None:
                    end = {"outcome": ran.interruption.outcome, "error": ran.interruption.error}
                    break
                name = short_name(gate.label)
                logs.append(ran.log_of(f"gate {name}", ran.output))
                control.event(EventType.PROGRESS, ran.event("gate", name))
                if ran.problem is not None:
                    carry = {**result.carry_over, "feedback": _feedback(gate, ran.problem, ran.output)}
                    why = f"gate {name!r} failed: {ran.problem}"
                    end = {"outcome": Outcome.FAILED, "error": why, "carry_over": carry}
                    break
            gate_usage, warnings = usage.end()
        log = usage_file.with_warnings("\n".join(logs), warnings) or ""
        capture = Capture(control.output_limit)
        capture.feed("\n".join(filter(None, [(result.log or "").rstrip(), log])).encode("utf-8", errors="replace"))
        return replace(result, log=capture.text() or None, usage=(*result.usage, *gate_usage), **end)

    def _run(
        self, gate: Gate, attempt: RunningAttempt, scratch: environment.Scratch, poll: Callable[[], None]
    ) -> SideCommandEnd:
        claim, control, folder = attempt.claim, attempt.control, str(attempt.claim.workdir)
        if control.stop_reason is not None:  # do not start it: it may cost money
            return SideCommandEnd(None, "", timedelta(0), Interruption.stopped(control.stop_reason))
        if not os.path.isdir(folder):  # noqa: PTH112 - as in runners
            return SideCommandEnd(f"the folder {folder} is gone", "", timedelta(0))
        own, of_attempt = claim.work.get("env", {}), environment.attempt_variables(claim, scratch)
        variables = environment.base_variables() | own | of_attempt
        run = partial(run_side_command, self._launcher, gate.run, claim, control)
        return run(variables=variables, folder=folder, timeout=gate.timeout, poll=poll)


def _feedback(gate: Gate, why: str, printed: str) -> str:
    name = f"The gate {gate.name!r}" if gate.name else "A gate"
    parts = [f"{name} did not pass: {why}.", f"Its command: {gate.run[:_MOST_COMMAND]}"]
    text = printed.strip()
    if text:
        cut = len(text) > _MOST_FEEDBACK
        parts.append(f"{'The end of what' if cut else 'What'} it printed:\n{text[-_MOST_FEEDBACK:]}")
    return "\n".join(parts)
