"""Runs a shell command beside a job, such as a gate or the setup of a worktree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from coordination.base.clock import monotonic
from coordination.base.durations import show_duration
from coordination.domain.tasks.attempts import Claim, Outcome
from workers.runners.base import Control
from workers.runners.output import Capture, one_line
from workers.runners.process import Launcher, death_sentence
from workers.runners.program import Interruption, run_program

_MOST_OUTPUT = 64 * 1024  # bytes
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class SideCommandEnd:
    """How the command ended. ``problem``: why it failed. ``interruption``: the attempt was ended meanwhile."""

    problem: str | None
    output: str
    took: timedelta
    interruption: Interruption | None = None

    def event(self, kind: str, name: str) -> dict[str, Any]:
        """Return the payload of its event."""
        payload = {kind: name, "passed": self.problem is None, "took": round(self.took.total_seconds(), 3)}
        return payload if self.problem is None else payload | {"why": self.problem}

    def log_of(self, title: str, output: str) -> str:
        """Return the text for the attempt's log."""
        return f"[{title}] {self.problem or 'passed'} ({show_duration(self.took)})\n{output.rstrip()}".rstrip()


def short_name(command: str) -> str:
    """Return a short name of a command: its beginning, on one line."""
    return one_line(command, _LONGEST_NAME)


def run_side_command(
    launcher: Launcher,
    command: str,
    claim: Claim,
    control: Control,
    *,
    variables: Mapping[str, str],
    folder: str,
    timeout: timedelta,
    poll: Callable[[], None],
) -> SideCommandEnd:
    """Run *command* in *folder* to its end. Raises OSError or ValueError when it cannot be started."""
    began = monotonic()
    out = Capture(min(_MOST_OUTPUT, control.output_limit))
    ran = run_program(
        launcher,
        ["/bin/sh", "-c", f"exec 2>&1\n{command}"],
        replace(claim, timeout=timeout, stall_timeout=None),
        control,
        variables=variables,
        folder=folder,
        feed=out.feed,
        announced=False,
        write=control.writable_paths(folder),
        poll=poll,
    )
    interruption, problem = ran.interruption, _problem(ran.exit_code)
    if interruption is not None and interruption.outcome is Outcome.TIMED_OUT:
        problem, interruption = interruption.error, None
    return SideCommandEnd(problem, out.text(), timedelta(seconds=monotonic() - began), interruption)


def _problem(exit_code: int | None) -> str | None:
    if exit_code == 0:
        return None
    if exit_code is None:
        return "it did not end"
    return death_sentence(exit_code) if exit_code < 0 else f"exit status {exit_code}"
