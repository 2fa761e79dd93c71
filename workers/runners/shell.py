"""Runs ``/bin/sh -c command``: output is what it prints on stdout, the log what it prints on stderr."""

from __future__ import annotations

from functools import partial

from coordination.base.errors import Refused
from coordination.domain.jobs import Shell
from coordination.domain.jobs.output import Stream
from coordination.domain.tasks.attempts import AttemptEnd, Claim
from workers.runners import environment, program, usage_file
from workers.runners.base import Control
from workers.runners.output import Capture, last_line, without_line_break
from workers.runners.process import Launcher
from workers.runners.shared import Shared

_ERROR_LIMIT = 300


class ShellRunner:
    """Executes shell jobs."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the command to its end, in a session of its own."""
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        try:
            work = claim.job
        except Refused as refusal:
            return program.refused(refusal.sentence())
        if not isinstance(work, Shell):
            return program.refused(f"A {work.kind} job is not for the shell")
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not program.can_be_entered(folder):
                return program.missing_folder(folder)
            variables = environment.inherited() | dict(work.env) | environment.of_attempt(claim, scratch)
            variables |= environment.of_line(control.line, variables["PATH"])
            variables["COORD_INPUT"] = scratch.write_input(claim)
            out = Capture(control.output_limit)

            def said(data: bytes) -> None:
                out.feed(data)
                control.printed(Stream.OUT, data)

            try:
                ran = program.run_program(
                    self._launcher,
                    ["/bin/sh", "-c", work.command],
                    claim,
                    control,
                    variables=variables,
                    folder=folder,
                    feed=said,
                    show=partial(control.printed, Stream.ERR),
                    write=control.places(folder),
                    glance=usage_file.UsageFile(scratch.costs, control.spent).look,
                )
            except (OSError, ValueError) as error:
                return program.cannot_start(error, folder=folder)
            spent, warnings = usage_file.read(scratch.costs)
        said_last = last_line(ran.log, _ERROR_LIMIT)
        if ran.exit_code and not said_last:
            said_last = last_line(out.text(), _ERROR_LIMIT)  # test programs say on stdout what failed
        outcome, sentence = program.judge(ran.exit_code, said=said_last)
        if ran.interruption is not None:
            outcome, sentence = ran.interruption.outcome, ran.interruption.error
        return AttemptEnd(
            outcome,
            output=without_line_break(out.text()),
            exit_code=ran.exit_code,
            error=sentence,
            log=usage_file.with_warnings(ran.log, warnings),
            usage=spent,
        )


def make_runner(shared: Shared) -> ShellRunner:
    """Return the runner of this kind."""
    return ShellRunner(shared.launcher)
