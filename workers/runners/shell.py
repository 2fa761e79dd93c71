"""Runs ``/bin/sh -c command``: output is what it prints on stdout, the log what it prints on stderr."""

from __future__ import annotations

import contextlib
import errno
import os

from coordination.domain.attempts import Claim, Outcome, Result, Usage
from coordination.domain.work import Shell, parse_work
from coordination.errors import Refused
from workers.runners import environment, usage
from workers.runners.base import Control
from workers.runners.output import Capture, last_line, without_line_break
from workers.runners.process import Launcher, death_sentence
from workers.runners.watch import Interruption, Watch

TRY_LATER_STATUS = os.EX_TEMPFAIL  # 75: how a process asks to be tried again later

_ERROR_LIMIT = 300
# A full machine is no fault of the job's: it waits and is tried again.
_TRANSIENT = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY})


class ShellRunner:
    """Executes shell jobs."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def run(self, claim: Claim, control: Control) -> Result:
        """Run the command to its end, in a session of its own."""
        if control.stop_reason is not None:
            return Result(control.stop_reason.outcome, error="stopped before it began", began=False)
        try:
            work = parse_work(claim.work)
        except Refused as refusal:
            return refused(refusal.sentence())
        if not isinstance(work, Shell):
            return refused(f"A {work.kind} job is not for the shell")
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not os.path.isdir(folder):  # noqa: PTH112 - one system call, on the hot path
                return missing_folder(folder)
            variables = environment.inherited() | dict(work.env) | environment.of_attempt(claim, scratch)
            variables["COORD_INPUT"] = scratch.write_input(claim)
            return self._execute(work.command, claim, control, folder=folder, variables=variables, scratch=scratch)

    def _execute(
        self,
        command: str,
        claim: Claim,
        control: Control,
        *,
        folder: str,
        variables: dict[str, str],
        scratch: environment.Scratch,
    ) -> Result:
        out, err = Capture(control.output_limit), Capture(control.output_limit)
        with contextlib.ExitStack() as stack:
            try:
                out_reading, out_writing = _pipe(stack)
                err_reading, err_writing = _pipe(stack)
                process = self._launcher.start(
                    ["/bin/sh", "-c", command],
                    markers=[environment.MARKER],
                    environment=variables,
                    folder=folder,
                    stdout=out_writing.fd,
                    stderr=err_writing.fd,
                )
            except (OSError, ValueError) as error:
                return cannot_start(error)
            out_writing.close()
            err_writing.close()
            watch = Watch(
                process,
                control,
                output={out_reading.fd: out.feed, err_reading.fd: err.feed},
                timeout=claim.timeout,
                stall_timeout=claim.stall_timeout,
            )
            try:
                control.started(process.record)
                interruption = watch.run()
            finally:
                process.end()
            watch.drain()
        spent, warnings = usage.read(scratch.costs)
        return _result(
            process.exit_code, interruption, output=out.text(), log=err.text(), spent=spent, warnings=warnings
        )


def _result(
    exit_code: int | None,
    interruption: Interruption | None,
    *,
    output: str,
    log: str,
    spent: tuple[Usage, ...],
    warnings: tuple[str, ...],
) -> Result:
    outcome, error = judge(exit_code, said=last_line(log, _ERROR_LIMIT))
    if interruption is not None:
        outcome, error = interruption.outcome, interruption.error
    return Result(
        outcome,
        output=without_line_break(output),
        exit_code=exit_code,
        error=error,
        log=usage.with_warnings(log, warnings),
        usage=spent,
    )


def judge(exit_code: int | None, *, said: str) -> tuple[Outcome, str | None]:
    """What an exit code means, and the sentence for it; *said* is the last thing the process complained about."""
    if exit_code == 0:
        return Outcome.COMPLETED, None
    if exit_code is None:
        return Outcome.FAILED, "its process did not end"
    if exit_code < 0:
        return Outcome.FAILED, death_sentence(exit_code)
    outcome = Outcome.DEFERRED if exit_code == TRY_LATER_STATUS else Outcome.FAILED
    return outcome, f"exit status {exit_code}: {said}" if said else f"exit status {exit_code}"


def refused(sentence: str) -> Result:
    """An end that no retry can mend."""
    return Result(Outcome.FAILED, error=sentence, retryable=False)


def missing_folder(folder: str) -> Result:
    """The folder that the job is to run in is not there."""
    return refused(f"The job's folder {folder} does not exist on this machine")


def cannot_start(error: OSError | ValueError) -> Result:
    """The process could not be started: by our own fault, which waits, or by the job's."""
    if isinstance(error, OSError):
        if error.errno in _TRANSIENT:
            return Result(Outcome.DEFERRED, error=f"No process can be started now: {error.strerror}")
        if error.errno == errno.E2BIG:
            return refused("The command and its environment are longer than the system takes; pass data in a file")
    return refused(f"The job cannot be started: {error}")


class _Descriptor:
    """A file descriptor that is closed once."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)


def _pipe(stack: contextlib.ExitStack) -> tuple[_Descriptor, _Descriptor]:
    reading, writing = (_Descriptor(fd) for fd in os.pipe2(os.O_CLOEXEC))
    stack.callback(reading.close)
    stack.callback(writing.close)
    return reading, writing
