"""Runs ``/bin/sh -c command``: the output is its stdout, the log its stderr."""

from __future__ import annotations

from functools import partial
from typing import cast

from coordination.base.errors import Refused
from coordination.domain.jobs import Shell
from coordination.domain.jobs.output import Stream
from coordination.domain.tasks.attempts import AttemptEnd, Claim
from workers.runners import environment, program, usage_file
from workers.runners.base import Control
from workers.runners.output import Capture, last_line, without_line_break
from workers.runners.shared import RunnerResources

_ERROR_LIMIT = 300


class ShellRunner:
    """Executes shell jobs."""

    def __init__(self, resources: RunnerResources) -> None:
        self._launcher = resources.launcher

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the command to its end, in a session of its own."""
        if (stopped := program.end_if_stopped(control)) is not None:
            return stopped
        try:
            call = cast("Shell", claim.job)
        except Refused as refusal:
            return program.refusal_end(refusal.sentence())
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not program.can_be_entered(folder):
                return program.refusal_end(program.folder_problem(folder))
            variables = environment.base_variables() | dict(call.env) | environment.attempt_variables(claim, scratch)
            variables |= environment.report_variables(control.report_address, variables["PATH"])
            variables["COORD_INPUT"] = scratch.write_input(claim)
            out = Capture(control.output_limit)

            def feed(data: bytes) -> None:
                out.feed(data)
                control.show_output(Stream.OUT, data)

            try:
                ran = program.run_program(
                    self._launcher,
                    ["/bin/sh", "-c", call.command],
                    claim,
                    control,
                    variables=variables,
                    folder=folder,
                    feed=feed,
                    show=partial(control.show_output, Stream.ERR),
                    write=control.writable_paths(folder),
                    poll=usage_file.UsageFile(scratch.costs, control.record_usage).poll,
                )
            except (OSError, ValueError) as error:
                return program.cannot_start(error, folder=folder)
            usage, warnings = usage_file.read_usage(scratch.costs)
        message = last_line(ran.log, _ERROR_LIMIT)
        if ran.exit_code and not message:
            message = last_line(out.text(), _ERROR_LIMIT)  # test programs print failures on stdout
        outcome, why = program.judge_exit(ran.exit_code, message=message)
        if ran.interruption is not None:
            outcome, why = ran.interruption.outcome, ran.interruption.error
        return AttemptEnd(
            outcome,
            output=without_line_break(out.text()),
            exit_code=ran.exit_code,
            error=why,
            log=usage_file.with_warnings(ran.log, warnings),
            usage=usage,
        )
