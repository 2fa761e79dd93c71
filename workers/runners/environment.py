"""The environment variables of jobs (an allow-list, never the worker's secrets) and their scratch files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import sys
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path
from typing import Self

from coordination.base.host import ATTEMPT_MARKER
from coordination.domain.jobs import OURS
from coordination.domain.tasks.attempts import Claim
from workers.runners import untrusted_files, usage_file
from workers.runners.base import ReportAddress
from workers.runners.usage_file import COSTS

# Paths of programs, and settings of text, time, temporary files, certificates and proxies. Plans set all others.
_PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE"),
        *("VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    }
)

MARKER = ATTEMPT_MARKER


def base_variables() -> dict[str, str]:
    """Return the variables of the worker's environment that jobs may see."""
    variables = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("LC_")}
    variables.setdefault("PATH", os.defpath)
    return variables


def attempt_variables(claim: Claim, scratch: Scratch) -> dict[str, str]:
    """Return the COORD_ variables that identify the job."""
    variables = {
        MARKER: scratch.name,
        "COORD_TASK_ID": claim.task_id,
        "COORD_TASK_KEY": claim.key,
        "COORD_ATTEMPT": str(claim.attempt),
        "COORD_PROJECT": claim.project,
        "COORD_RUN_ID": claim.run_id,
        "COORD_COSTS": scratch.costs,
    }
    if claim.agent is not None:
        variables["COORD_AGENT"] = claim.agent
    return variables


def report_variables(address: ReportAddress | None, path: str) -> dict[str, str]:
    """Return the variables with which a job reports, and its PATH; empty when it cannot report."""
    if address is None:
        return {}
    variables = {"COORD_URL": address.url, "COORD_TOKEN": address.token}
    return variables | ({"PATH": f"{path}{os.pathsep}{address.programs}"} if address.programs else {})


def mcp_server(address: ReportAddress | None) -> tuple[list[str], dict[str, str]]:
    """Return the command and the variables of the MCP server with which a job reports."""
    variables = {} if address is None else {"COORD_URL": address.url, "COORD_TOKEN": address.token}
    return [sys.executable, "-P", "-m", "coordination.cli", "mcp"], variables


def attempt_prefix(task_id: str, attempt: int) -> str:
    """Return the common prefix of the markers of an attempt's processes."""
    return f"{task_id}.{attempt}."


class Scratch:
    """The scratch files of one job or command; a context manager that deletes them.

    Files are made only when needed: a short Python job uses none. A usage file is kept until the attempt's end is
    stored, if the worker has set a folder for it.
    """

    def __init__(self, root: Path, claim: Claim) -> None:
        self.name = f"{attempt_prefix(claim.task_id, claim.attempt)}{_PROCESS}{next(_numbers):x}"
        self._keeper = usage_file.keeping_root(root)
        self._fence = claim.task_id, claim.attempt
        # Strings instead of Path objects: this is on the hot path.
        self._stem = f"{root}{os.sep}{self.name}"
        self.costs = self._stem + COSTS
        self._paths: list[str] = [self.costs]
        if root not in _roots:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(_roots) >= _MOST_ROOTS:  # each attempt may have its own root
                _roots.clear()
            _roots.add(root)

    def move_costs(self, folder: str) -> None:
        """Expect the usage file in *folder*, which the process may write."""
        self._paths.remove(self.costs)
        self.costs = f"{folder}{os.sep}{self.name}{COSTS}"
        self._paths.append(self.costs)
        if self._keeper is not None:
            self._paths.append(usage_file.link_report(self.costs, self._keeper))

    def write_input(self, claim: Claim) -> str:
        """Write the task's input and the results of its needs to a JSON file; return its path."""
        with self._create(".input.json") as file:
            file.write(json.dumps({"input": claim.input, "needs": claim.needs}).encode())
        return str(file.name)

    def write_servers(self, address: ReportAddress | None) -> str:
        """Write the configuration of our MCP server to a file, for an agent's program; return its path."""
        (program, *arguments), env = mcp_server(address)
        server = {"type": "stdio", "command": program, "args": arguments, "env": env}
        with self._create(".mcp.json") as file:
            file.write(json.dumps({"mcpServers": {OURS: server}}).encode())
        return str(file.name)

    @contextlib.contextmanager
    def reading(self, text: str) -> Iterator[int]:
        """Yield a descriptor from which a program reads *text*: a file, so that neither side blocks."""
        with self._create(".stdin") as file:
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            file.seek(0)
            yield file.fileno()

    def _create(self, suffix: str) -> BufferedRandom:
        path = self._stem + suffix
        self._paths.append(path)
        return open(path, "x+b", opener=_open_private)

    def make_folder(self) -> str:
        """Make an empty folder for a job without one; return its path."""
        path = self._stem + _FOLDER
        self._paths.append(path)
        os.mkdir(path, mode=0o700)  # noqa: PTH102
        return path

    def skip_costs(self) -> None:
        """Note that there is no usage file to delete."""
        self._paths.remove(self.costs)

    def close(self) -> None:
        """Delete the files; move a usage file to the folder where it is kept."""
        paths, self._paths = self._paths, []
        if self._keeper is not None and self.costs in paths and usage_file.is_report(self.costs):
            target = f"{self._keeper}{os.sep}{self.name}{COSTS}"
            if self.costs == target or usage_file.move_report(self.costs, target):
                usage_file.keep_report(self._fence, target)
            paths.remove(self.costs)
        for path in paths:
            try:
                (os.rmdir if path.endswith(_FOLDER) else os.unlink)(path)  # most jobs leave their folder empty
            except FileNotFoundError:
                pass
            except OSError:
                untrusted_files.delete_quietly(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


_PROCESS = secrets.token_hex(6)  # drawn once: a system call for each job would take longer than a short job
_numbers = itertools.count()
_FOLDER = ".d"
_roots: set[Path] = set()
_MOST_ROOTS = 64
