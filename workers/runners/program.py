"""Runs a program to its end as a job, in its own session, with bounded output and limits."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO

from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners.base import Control
from workers.runners.output import Capture
from workers.runners.process import Launcher, death_sentence
from workers.runners.process_watch import Interruption, ProcessWatch
from workers.runners.system_limits import cpu_sentence, ran_out_of_cpu

TRY_LATER_STATUS = os.EX_TEMPFAIL  # 75: the process requests a retry later

# Errors of a full machine or an unavailable file server, which defer the job.
_TRANSIENT = frozenset(
    {
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY),
        *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO),
    }
)
_LONGEST_NAMED = 300


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended. *log*: its stderr."""

    exit_code: int | None
    interruption: Interruption | None
    log: str


def run_program(
    launcher: Launcher,
    arguments: Sequence[str],
    claim: Claim,
    control: Control,
    *,
    variables: Mapping[str, str],
    folder: str,
    feed: Callable[[bytes], None],
    show: Callable[[bytes], None] | None = None,
    stdin: int = subprocess.DEVNULL,
    announced: bool = True,
    write: Sequence[str] | None = None,
    read: Sequence[str] = (),
    glance: Callable[[], None] | None = None,
    done: Callable[[], bool] = lambda: False,
) -> ProgramResult:
    """Run the program to its end. *feed* gets its stdout while it runs, *show* its stderr, which is also kept.

    *announced*: it is the job itself. *write*: paths that it may write in a sandbox; None: its folder. *read*: further
    paths that it may read there. *glance*: called from time to time, and at the end. *done*: returns whether the
    program has reported its end. Raises OSError or ValueError when it cannot be started.
    """
    err, limits = Capture(control.output_limit), control.limits_for(claim)
    # Masked before it is shortened.
    masked_err = None if control.secrets is None else control.secrets.mask_stream(err.feed)

    def feed_err(data: bytes) -> None:
        (masked_err or err.feed)(data)
        if show is not None:
            show(data)

    with contextlib.ExitStack() as stack:
        out_reading, out_writing = _open_pipe(stack)
        err_reading, err_writing = _open_pipe(stack)
        process = launcher.start(
            arguments,
            environment=variables,
            folder=folder,
            stdin=stdin,
            stdout=out_writing.fileno(),
            stderr=err_writing.fileno(),
            limits=limits,
            write=write,
            temporary_in=str(control.scratch),
            read=read,
        )
        out_writing.close()
        err_writing.close()
        watch = ProcessWatch(
            process,
            claim,
            control,
            output={out_reading.fileno(): feed, err_reading.fileno(): feed_err},
            glance=glance,
            done=done,
        )
        try:
            if announced:
                control.note_start(process.record)
            interruption = watch.run()
        finally:
            process.end()
        watch.drain()
        if masked_err is not None:
            masked_err.close()
        if glance is not None:
            glance()  # also for programs that end at once
    if interruption is None and limits.cpu is not None and ran_out_of_cpu(process.exit_code):
        interruption = Interruption(Outcome.FAILED, cpu_sentence(limits.cpu))
    return ProgramResult(process.exit_code, interruption, err.text())


def judge_exit(exit_code: int | None, *, message: str) -> tuple[Outcome, str | None]:
    """Return outcome and error for an exit code. *message*: the last line that the process printed on stderr."""
    if exit_code == 0:
        return Outcome.COMPLETED, None
    if exit_code is None:
        return Outcome.FAILED, "its process did not end"
    if exit_code < 0:
        return Outcome.FAILED, death_sentence(exit_code)
    outcome = Outcome.DEFERRED if exit_code == TRY_LATER_STATUS else Outcome.FAILED
    return outcome, f"exit status {exit_code}: {message}" if message else f"exit status {exit_code}"


def end_if_stopped(control: Control) -> AttemptEnd | None:
    """Return the end of a job that must stop before it began; None if it may run."""
    if control.stop_reason is None:
        return None
    return AttemptEnd(control.stop_reason.outcome, error="stopped before it began", job_started=False)


def refusal_end(sentence: str) -> AttemptEnd:
    """Return a failed end that is not retried."""
    return AttemptEnd(Outcome.FAILED, error=sentence, retryable=False)


def is_transient(error: OSError | ValueError) -> bool:
    """Return whether a retry may succeed."""
    return isinstance(error, OSError) and error.errno in _TRANSIENT


def can_be_entered(folder: str) -> bool:
    """Return whether a job can run in the folder: one system call, because it is on the hot path."""
    return os.access(f"{folder}/.", os.X_OK)


def folder_problem(folder: str) -> str:
    """Return why no job can run in a folder, and what to do."""
    if os.path.isdir(folder):  # noqa: PTH112 - Path's would raise here
        return f"The job's folder {folder} may not be entered by the worker's user: give it the permission (chmod)"
    problem = "is not a folder" if os.path.lexists(folder) else "does not exist on this machine"
    return f"The job's folder {folder} {problem}: make it, or correct workdir or the project's path"


def program_problem(name: str, *, folder: str, path: str) -> str | None:
    """Return why a program cannot be found, and what to do; None when it is found. Paths are relative to *folder*."""
    place = os.path.join(folder, name) if "/" in name else name  # noqa: PTH118 - as the system does
    if shutil.which(place, path=path) is not None:
        return None
    if "/" in name and os.path.isfile(place):  # noqa: PTH113
        return f"{name} is not executable. Make it so with chmod +x {place}"
    return f"{name} is not installed where this worker looks for programs (PATH)"


def cannot_start(error: OSError | ValueError, *, folder: str = "/") -> AttemptEnd:
    """Return the end of a job that could not be started: deferred if the machine is at fault, else failed."""
    if isinstance(error, OSError):
        if is_transient(error):
            return AttemptEnd(
                Outcome.DEFERRED, error=f"No process can be started now: {error.strerror}", job_started=False
            )
        if error.errno == errno.E2BIG:
            return refusal_end("The command and its environment are too long for the system; pass data in a file")
        if isinstance(error.filename, str):
            return refusal_end(_start_problem(error, error.filename, folder))
    return refusal_end(f"The job cannot be started: {error}")


def _start_problem(error: OSError, name: str, folder: str) -> str:
    if name == folder:
        return folder_problem(folder)
    if error.errno == errno.ENOENT:
        with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123
            first = file.readline(_LONGEST_NAMED)
            if first.startswith(b"#!") and (words := first[2:].split()):
                interpreter = os.fsdecode(words[0])
                return f"{name} cannot be started: the interpreter {interpreter} in its first line is missing"
    return f"{name} cannot be started: {(error.strerror or str(error)).lower()}"


def _open_pipe(stack: contextlib.ExitStack) -> list[FileIO]:
    """Return the reading and the writing end of a new pipe, which *stack* closes."""
    return [stack.enter_context(FileIO(fd, mode)) for fd, mode in zip(os.pipe2(os.O_CLOEXEC), "rw", strict=True)]
