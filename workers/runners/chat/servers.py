"""The MCP server programs of a chat, which run for one attempt, each in its own session.

The job's thread starts and ends them; the loop uses their pipes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from coordination.base.errors import Refused
from coordination.domain.jobs import OURS
from coordination.domain.tasks.attempts import Claim
from workers.runners import environment, orphan_reaper
from workers.runners.base import Control
from workers.runners.output import Capture
from workers.runners.process import Launcher, Process, death_sentence
from workers.runners.program import program_problem
from workers.runners.secret_masking import Secrets

_GRACE = 0.5  # seconds to exit after the end of its input, and again after SIGTERM


class ServerPipes:
    """Both ends of a program's pipes. Either the loop adopts our ends, once, or the creator closes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.its_input, self.to_it = os.pipe2(os.O_CLOEXEC)
        self.from_it, self.its_output = os.pipe2(os.O_CLOEXEC)
        self.errors, self.its_errors = os.pipe2(os.O_CLOEXEC)
        self._ours = [self.to_it, self.from_it, self.errors]
        self._its = [self.its_input, self.its_output, self.its_errors]

    def close_its_ends(self) -> None:
        """Close the program's ends here, after its start."""
        _close_all(self._its)

    def adopt(self) -> bool:
        """Pass our ends to the caller, who must close them; return False when they are closed already."""
        with self._lock:
            is_open = bool(self._ours)
            self._ours.clear()
        return is_open

    def close(self) -> None:
        """Close the ends that were not adopted."""
        with self._lock:
            _close_all(self._its)
            _close_all(self._ours)


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


class ToolServer:
    """One MCP server of a chat: a program with its pipes, or an address with a token."""

    def __init__(self, body: Mapping[str, Any], secrets: Secrets, *, limit: int) -> None:
        self.command: Sequence[str] = body.get("command", ())
        self.url: str | None = body.get("url")
        self.env: Mapping[str, str] = body.get("env", {})
        self.secrets = {name: secrets.values[name] for name in body.get("secrets", ())}
        self.name = body.get("name") or (self.url.partition("?")[0] if self.url else Path(self.command[0]).name)
        self.pipes: ServerPipes | None = None
        self.process: Process | None = None
        self.printed = Capture(limit)
        self.stderr = secrets.mask_stream(self.printed.feed)  # masked before it is shortened

    @property
    def headers(self) -> dict[str, str]:
        """Return HTTP headers: the first secret is a bearer token."""
        token = next(iter(self.secrets.values()), None)
        return {} if token is None else {"Authorization": f"Bearer {token}"}


class ToolServers:
    """The servers of one attempt; a context manager that ends their programs."""

    def __init__(self, launcher: Launcher, bodies: Sequence[Mapping[str, Any] | str], secrets: Secrets) -> None:
        self._launcher = launcher
        self._bodies = bodies
        self._secrets = secrets
        self.ends_at_once = False
        self.all: list[ToolServer] = []

    def start(self, claim: Claim, control: Control, *, env: Mapping[str, str], scratch: environment.Scratch) -> None:
        """Start the programs. Raises Refused, OSError or ValueError when one cannot be started."""
        bodies = [self._ours(control) if isinstance(body, str) else body for body in self._bodies]
        self.all = [ToolServer(body, self._secrets, limit=control.output_limit) for body in bodies]
        programs = [server for server in self.all if server.command]
        if not programs:
            return
        folder = claim.workdir or scratch.make_folder()
        common = environment.base_variables() | dict(env) | environment.attempt_variables(claim, scratch)
        common["COORD_INPUT"] = scratch.write_input(claim)
        for server in programs:
            variables = common | server.secrets | dict(server.env)
            name = server.command[0]
            if (problem := program_problem(name, folder=folder, path=variables["PATH"])) is not None:
                raise Refused(problem)
            server.pipes = ServerPipes()
            server.process = self._launcher.start(
                server.command,
                environment=variables,
                folder=folder,
                stdin=server.pipes.its_input,
                stdout=server.pipes.its_output,
                stderr=server.pipes.its_errors,
                write=control.writable_paths(folder),
                temporary_in=str(control.scratch),
            )
            server.pipes.close_its_ends()
            if server is programs[0]:
                control.note_start(server.process.record)

    @staticmethod
    def _ours(control: Control) -> Mapping[str, Any]:
        """Return our own server, which reports with the attempt's token. Opens the socket of reports."""
        command, variables = environment.mcp_server(control.report_address)
        return {"name": OURS, "command": command, "env": variables}

    def log(self) -> str:
        """Return the servers' stderr, after their end."""
        for server in self.all:
            server.stderr.close()
        return "\n".join(text for server in self.all if (text := server.printed.text().rstrip("\n")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for server in self.all:
            if server.pipes is not None:
                server.pipes.close()
        running = [server.process for server in self.all if server.process is not None]
        remaining = _await_exits(running, 0 if self.ends_at_once else _GRACE)  # their input has ended
        for process in remaining:
            process.terminate()
        if not self.ends_at_once:
            _await_exits(remaining, _GRACE)
        for process in running:
            process.end()


def describe_exit(server: ToolServer) -> str | None:
    """Return how the server's program ended, in words; None if it runs."""
    if server.process is None:
        return None
    with contextlib.suppress(ChildProcessError):
        status = os.waitid(os.P_PID, server.process.record.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if status is not None:
            killed = status.si_code != os.CLD_EXITED
            return death_sentence(-status.si_status) if killed else f"exit status {status.si_status}"
    return None


def _await_exits(processes: Sequence[Process], seconds: float) -> list[Process]:
    """Wait for at most *seconds*; return the processes that have not exited."""
    running = orphan_reaper.wait_for_exits((process.exit_fd for process in processes), time.monotonic() + seconds)
    return [process for process in processes if process.exit_fd in running]
