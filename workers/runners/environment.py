"""What a job finds around it: its environment (an allow-list, never the worker's secrets) and its scratch files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from coordination.base.host import ATTEMPT_MARKER
from coordination.domain.jobs import OURS
from coordination.domain.tasks.attempts import Claim
from workers.runners import cost_reports, untrusted_files
from workers.runners.base import ReportAddress
from workers.runners.cost_reports import COSTS

# Where programs are and how text, time and temporary files are to be treated. Whatever else a job needs, its plan says.
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


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a job may see of the worker's own environment."""
    source = os.environ if environ is None else environ
    kept = {name: value for name, value in source.items() if name in _PASSED_ON or name.startswith("LC_")}
    kept.setdefault("PATH", os.defpath)
    return kept


def of_attempt(claim: Claim, scratch: Scratch) -> dict[str, str]:
    """The COORD_ variables that tell a job who it is."""
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


def of_line(line: ReportAddress | None, path: str) -> dict[str, str]:
    """The variables with which a job reports, and its PATH; empty when it cannot."""
    if line is None:
        return {}
    told = {"COORD_URL": line.url, "COORD_TOKEN": line.token}
    return told | ({"PATH": f"{path}{os.pathsep}{line.programs}"} if line.programs else {})


def our_server() -> list[str]:
    """What starts the MCP server with which a job reports."""
    return [sys.executable, "-P", "-m", "coordination.cli", "mcp"]


def attempt_prefix(task_id: str, attempt: int) -> str:
    """How the marker of every execution of that attempt begins."""
    return f"{task_id}.{attempt}."


class Scratch:
    """The files of one execution, among those of others; a context manager that takes them away again.

    Nothing is made before it is needed: a short Python job costs the file system nothing. What was reported stays where
    the worker wants that, until the attempt's end is stored.
    """

    def __init__(self, root: Path, claim: Claim) -> None:
        self.name = f"{attempt_prefix(claim.task_id, claim.attempt)}{_PROCESS}{next(_numbers):x}"
        self._keeper = cost_reports.keeping_root(root)
        self._fence = claim.task_id, claim.attempt
        # Names, not paths with methods: this is on the hot path.
        self._stem = f"{root}{os.sep}{self.name}"
        self.costs = self._stem + COSTS
        self._made: list[str] = [self.costs]
        if root not in _roots:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(_roots) >= _MOST_ROOTS:  # each attempt may have one of its own
                _roots.clear()
            _roots.add(root)

    def move_costs(self, folder: str) -> None:
        """Expect the file of costs in *folder*, which its process may write to."""
        self._made.remove(self.costs)
        self.costs = f"{folder}{os.sep}{self.name}{COSTS}"
        self._made.append(self.costs)
        if self._keeper is not None:
            self._made.append(cost_reports.link_to(self.costs, self._keeper))

    def write_input(self, claim: Claim) -> str:
        """The task's input and its dependencies' results as a JSON file, for a job that cannot be handed values."""
        path = self._stem + ".input.json"
        self._made.append(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"input": claim.input, "needs": claim.needs}, file)
        return path

    def write_servers(self, line: ReportAddress | None) -> str:
        """A file that tells an agent of our MCP server, as such programs read it."""
        told = {name: value for name, value in of_line(line, "").items() if name != "PATH"}
        program, *arguments = our_server()
        ours = {"type": "stdio", "command": program, "args": arguments, "env": told}
        path = self._stem + ".mcp.json"
        self._made.append(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"mcpServers": {OURS: ours}}, file)
        return path

    @contextlib.contextmanager
    def reading(self, text: str) -> Iterator[int]:
        """A descriptor from which a program reads *text*: a file, so that nobody waits for anybody."""
        path = self._stem + ".stdin"
        self._made.append(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w+b") as file:
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            file.seek(0)
            yield file.fileno()

    def make_folder(self) -> str:
        """An empty folder, for a job that has none to run in."""
        path = self._stem + ".d"
        self._made.append(path)
        os.mkdir(path, mode=0o700)  # noqa: PTH102
        return path

    def nothing_spent(self) -> None:
        """There is no file of costs to take away."""
        self._made.remove(self.costs)

    def close(self) -> None:
        """Take the files away."""
        made, self._made = self._made, []
        if self._keeper is not None and self.costs in made and cost_reports.is_report(self.costs):
            place = f"{self._keeper}{os.sep}{self.name}{COSTS}"
            if self.costs == place or cost_reports.move(self.costs, place):
                cost_reports.keep(self._fence, place)
            made.remove(self.costs)
        for path in made:
            try:
                os.unlink(path)  # noqa: PTH108
            except FileNotFoundError:
                pass
            except OSError:
                untrusted_files.delete_quietly(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_PROCESS = secrets.token_hex(6)  # asking the system anew for every job would cost more than a short job
_numbers = itertools.count()
_roots: set[Path] = set()
_MOST_ROOTS = 64
