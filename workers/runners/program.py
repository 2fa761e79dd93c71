"""Runs one program to its end as a job: its own session, two bounded streams, its limits, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from workers.runners import environment
from workers.runners.base import Control
from workers.runners.output import Capture
from workers.runners.process import Launcher, death_sentence
from workers.runners.process_watch import Interruption, ProcessWatch
from workers.runners.system_limits import cpu_sentence, ran_out_of_cpu

TRY_LATER_STATUS = os.EX_TEMPFAIL  # 75: how a process asks to be tried again later

# A full machine or a server that is away is no fault of the job's: it waits and is tried again.
_PASSING = frozenset(
    {
        *(errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY),
        *(errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EIO),
    }
)
_LONGEST_NAMED = 300


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended. *log*: what it printed on stderr."""

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
    done: Callable[[], bool] | None = None,
) -> ProgramResult:
    """Start the program and wait for it; *feed* gets its stdout as it comes, *show* its stderr, which is kept too.

    *announced*: it is the job itself. *write*: what it may change where it is confined; None: its folder. *read*:
    what it has to see there besides. *glance*: called now and then while it runs, and when it has ended. *done*:
    whether it has said that it is done. Raises OSError or ValueError when it cannot be started.
    """
    err, limits = Capture(control.output_limit), control.limits_for(claim)
    complaints = control.secrets.hiding(err.feed)  # before it is shortened

    def complain(data: bytes) -> None:
        complaints(data)
        if show is not None:
            show(data)

    with contextlib.ExitStack() as stack:
        out_reading, out_writing = _pipe(stack)
        err_reading, err_writing = _pipe(stack)
        process = launcher.start(
            arguments,
            markers=[environment.MARKER],
            environment=variables,
            folder=folder,
            stdin=stdin,
            stdout=out_writing.fd,
            stderr=err_writing.fd,
            limits=limits,
            write=write,
            temporary_in=str(control.scratch),
            read=read,
        )
        out_writing.close()
        err_writing.close()
        watch = ProcessWatch(
            process,
            control,
            output={out_reading.fd: feed, err_reading.fd: complain},
            timeout=claim.timeout,
            stall_timeout=claim.stall_timeout,
            limits=limits,
            glance=glance,
            done=done,
        )
        try:
            if announced:
                control.started(process.record)
            interruption = watch.run()
        finally:
            process.end()
        watch.drain()
        complaints.close()
        if glance is not None:
            glance()  # whatever took less than a moment counts before anything else is started
    if interruption is None and limits.cpu is not None and ran_out_of_cpu(process.exit_code):
        interruption = Interruption(Outcome.FAILED, cpu_sentence(limits.cpu))
    return ProgramResult(process.exit_code, interruption, err.text())


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


def stopped_early(control: Control) -> AttemptEnd | None:
    """The end of a job that was asked to end before it began."""
    if control.stop_reason is None:
        return None
    return AttemptEnd(control.stop_reason.outcome, error="stopped before it began", job_started=False)


def refused(sentence: str) -> AttemptEnd:
    """An end that no retry can mend."""
    return AttemptEnd(Outcome.FAILED, error=sentence, retryable=False)


def is_passing(error: OSError | ValueError) -> bool:
    """Whether what failed may well succeed a little later."""
    return isinstance(error, OSError) and error.errno in _PASSING


def can_be_entered(folder: str) -> bool:
    """Whether a job can run there; one system call, on the hot path."""
    return os.access(f"{folder}/.", os.X_OK)


def folder_problem(folder: str) -> str:
    """Why no job can run in a folder, and what to do."""
    if os.path.isdir(folder):  # noqa: PTH112 - Path's would raise here
        return f"The job's folder {folder} may not be entered by the worker's user: give it the permission (chmod)"
    found = "is no folder" if os.path.lexists(folder) else "does not exist on this machine"
    return f"The job's folder {folder} {found}: make it, or correct workdir or the project's path"


def missing_folder(folder: str) -> AttemptEnd:
    """The folder that the job is to run in is not there, or cannot be entered."""
    return refused(folder_problem(folder))


def program_problem(name: str, *, folder: str, path: str) -> str | None:
    """Why a program cannot be found, and what to do; None when it can. Its path is seen from where it starts."""
    place = os.path.join(folder, name) if "/" in name else name  # noqa: PTH118 - as the system does
    if shutil.which(place, path=path) is not None:
        return None
    if "/" in name and os.path.isfile(place):  # noqa: PTH113
        return f"{name} is not executable. Make it so with chmod +x {place}"
    return f"{name} is not installed where this worker looks for programs (PATH)"


def cannot_start(error: OSError | ValueError, *, folder: str = "/") -> AttemptEnd:
    """The process could not be started in *folder*: by our own fault, which waits, or by the job's."""
    if isinstance(error, OSError):
        if is_passing(error):
            return AttemptEnd(
                Outcome.DEFERRED, error=f"No process can be started now: {error.strerror}", job_started=False
            )
        if error.errno == errno.E2BIG:
            return refused("The command and its environment are longer than the system takes; pass data in a file")
        if isinstance(error.filename, str):
            return refused(_start_problem(error, error.filename, folder))
    return refused(f"The job cannot be started: {error}")


def _start_problem(error: OSError, name: str, folder: str) -> str:
    if name == folder:
        return folder_problem(folder)
    if error.errno == errno.ENOENT:
        with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123
            first = file.readline(_LONGEST_NAMED)
            if first.startswith(b"#!") and (words := first[2:].split()):
                named = os.fsdecode(words[0])
                return f"{name} cannot be started: the interpreter {named} that it names in its first line is missing"
    return f"{name} cannot be started: {(error.strerror or str(error)).lower()}"


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
