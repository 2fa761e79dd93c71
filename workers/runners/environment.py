"""What a job finds around it: its environment (an allow-list, never the worker's secrets) and its scratch files."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import itertools
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, quote_plus

from coordination.domain.attempts import Claim
from coordination.domain.chat import OURS
from coordination.errors import Refused
from coordination.machine import ATTEMPT_MARKER
from workers.runners.base import Line

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

_SECRETIVE = re.compile(r"(?i)(key|token|secret|passw|credential)")
_SHORTEST_SECRET = 8

MARKER = ATTEMPT_MARKER


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a job may see of the worker's own environment."""
    source = os.environ if environ is None else environ
    kept = {name: value for name, value in source.items() if name in _PASSED_ON or name.startswith("LC_")}
    kept.setdefault("PATH", os.defpath)
    return kept


class Secrets:
    """Variables of the worker's environment that a job is given by name, and whose values nobody else is shown."""

    def __init__(self, names: Iterable[str], environ: Mapping[str, str] | None = None) -> None:
        source = os.environ if environ is None else environ
        self.values = {name: source[name] for name in names if name in source}
        hidden = {value for name, value in self.values.items() if _SECRETIVE.search(name)}
        forms = {form for value in hidden if len(value) >= _SHORTEST_SECRET for form in _forms(value)}
        # The longest first: one may be the beginning of another.
        self._hidden = sorted(forms, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """*text* without them."""
        for value in self._hidden:
            text = text.replace(value, "***")
        return text

    def hiding(self, feed: Callable[[bytes], None]) -> Hiding:
        """*feed* for a stream that may hold them, in pieces cut anywhere."""
        return Hiding(feed, [value.encode(errors="surrogateescape") for value in self._hidden])


def _forms(value: str) -> set[str]:
    """A secret, and how it looks in a header, an address, a JSON text or a dump. No list of such forms is complete."""
    raw = value.encode(errors="surrogateescape")
    encoded = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), raw.hex(), raw.hex().upper()}
    encoded |= {text.rstrip("=") for text in encoded}
    written = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return {value, quote(raw), quote(raw, safe=""), quote_plus(raw)} | encoded | written


class Hiding:
    """Passes a stream on without some values; what may be the beginning of one waits for what follows. Close it."""

    def __init__(self, feed: Callable[[bytes], None], values: Sequence[bytes]) -> None:
        self._feed = feed
        self._values = values  # the longest first
        self._pattern = re.compile(b"|".join(map(re.escape, values))) if values else None
        self._waiting = b""

    def __call__(self, data: bytes) -> None:
        """Take what came next."""
        if self._pattern is None:
            self._feed(data)
            return
        data = self._waiting + data
        safe = self._begins(data)
        for found in self._pattern.finditer(data):
            if found.start() < safe < found.end():
                safe = found.start()  # a longer one, or one that begins inside it, may follow
        self._waiting = data[safe:]
        self._pass_on(data[:safe])

    def close(self) -> None:
        """Nothing more comes."""
        data, self._waiting = self._waiting, b""
        self._pass_on(data)

    def _begins(self, data: bytes) -> int:
        """Where at the end of *data* a value may have begun."""
        longest = len(self._values[0]) - 1
        for start in range(max(len(data) - longest, 0), len(data)):
            end = data[start:]
            if any(len(value) > len(end) and value.startswith(end) for value in self._values):
                return start
        return len(data)

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._feed(data if self._pattern is None else self._pattern.sub(b"***", data))


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


def of_line(line: Line | None, path: str) -> dict[str, str]:
    """The variables with which a job reports, and its PATH; empty when it cannot."""
    if line is None:
        return {}
    told = {"COORD_URL": line.url, "COORD_TOKEN": line.token}
    return told | ({"PATH": f"{path}{os.pathsep}{line.programs}"} if line.programs else {})


def our_server() -> list[str]:
    """What starts the MCP server with which a job reports. Raises Refused where it cannot be."""
    if importlib.util.find_spec("mcp") is None:
        raise Refused(
            "This worker has no MCP server: mcp is not installed",
            hint='Run, where the worker is installed: pip install "coordination[mcp]"',
        )
    return [sys.executable, "-P", "-m", "coordination.cli", "mcp"]


def attempt_prefix(task_id: str, attempt: int) -> str:
    """How the marker of every execution of that attempt begins."""
    return f"{task_id}.{attempt}."


class Scratch:
    """The files of one execution, in a folder that many share; a context manager that takes them away again.

    Nothing is made before it is needed: a short Python job costs the file system nothing.
    """

    def __init__(self, root: Path, claim: Claim) -> None:
        self.name = f"{attempt_prefix(claim.task_id, claim.attempt)}{_PROCESS}{next(_numbers):x}"
        # Names, not paths with methods: this is on the hot path.
        self._stem = f"{root}{os.sep}{self.name}"
        self.costs = self._stem + ".costs.jsonl"
        self._made: list[str] = [self.costs]
        if root not in _roots:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _roots.add(root)

    def write_input(self, claim: Claim) -> str:
        """The task's input and its dependencies' results as a JSON file, for a job that cannot be handed values."""
        path = self._stem + ".input.json"
        self._made.append(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"input": claim.input, "needs": claim.needs}, file)
        return path

    def write_servers(self, line: Line | None) -> str:
        """A file that tells an agent of our MCP server, as such programs read it. Raises Refused."""
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
        for path in made:
            try:
                os.unlink(path)  # noqa: PTH108
            except FileNotFoundError:
                pass
            except OSError:
                shutil.rmtree(path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_PROCESS = secrets.token_hex(6)  # asking the system anew for every job would cost more than a short job
_numbers = itertools.count()
_roots: set[Path] = set()
