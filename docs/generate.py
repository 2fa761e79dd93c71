"""Writes the reference pages from the code: ``python -m docs.generate``. A test compares the files with its output."""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

import coordination
from coordination import settings
from coordination.base.errors import CoordinationError
from coordination.base.fields import Table
from coordination.cli.main import app
from coordination.domain.jobs import JOBS
from coordination.domain.tasks.tasks import MOVES, TaskState
from coordination.formats.plan.table import PLAN, TASK, plan_schema

DOCS = Path(__file__).resolve().parent
_WRITTEN = "<!-- Written by python -m docs.generate; do not edit. -->"
_WIDTH = 100

_MEANINGS = {
    "home": "The home folder: the database, socket and logs of the embedded stack.",
    "database_url": "The database. Default: a SQLite file in the home folder.",
    "redis_url": "The Redis that carries messages. Default: the embedded stack starts one.",
    "workspace": "The workspace to use; workspaces in one database do not see each other.",
    "workspaces": "The workspaces whose jobs a worker runs. Default: that of `COORD_WORKSPACE`.",
    "lease_ttl": "How long a lease on a task is valid without a heartbeat.",
    "lease_heartbeat": "How often a worker renews its leases.",
    "sweep": "How often workers check for lost attempts and for ready tasks that are not enqueued.",
    "tick": "How often the supervisor of a project is due.",
    "shutdown_grace": "How long a stopping worker lets its jobs run before it hands them back.",
    "cancel_grace": "How long a job may take to exit after SIGTERM, before SIGKILL.",
    "deferral_limit": "How long a job may keep asking to be run later before a person must confirm.",
    "watchdog": "How long a worker with free slots may get no message while work waits before it restarts. 0: never.",
    "slots": "The number of jobs that run at once in one worker process.",
    "window": "How many tasks of a project may be enqueued at once. Default: about two per slot of the living workers.",
    "worktrees": "Where the git worktrees of running tasks are created. Default: `worktrees` in the home folder.",
    "worktrees_kept": "How long the worktree of a failed attempt is kept, unless its plan differs. `0s`: not at all.",
    "warm_kept": "How long the results of a `setup` command are kept after their last use by a worktree.",
    "ports": "The ports that attempts on this machine can get.",
    "output_limit": "How much output of a job is kept; the rest is cut, with a notice.",
    "job_memory": "The memory that all processes of a job may use together. Default: no limit.",
    "job_cpu": "The CPU time that all processes of a job may use together. Default: no limit.",
    "job_files": "How many files each process of a job may have open. Default: the worker's own limit.",
    "job_output": "How much a job may print before it is killed; `COORD_OUTPUT_LIMIT` is kept. Default: no limit.",
    "sandbox": "1 confines the processes of jobs as far as the kernel can; strict runs them in separate namespaces, or "
    "not at all. See [safety](safety.md).",
    "require_sandbox": "Like `COORD_SANDBOX=1`, but a worker whose kernel cannot confine jobs does not start.",
    "sandbox_write": "What a job in a sandbox may change besides its folder. Default: nothing.",
    "sandbox_read": "What a job in a sandbox may also read, in the strict sandbox and below hidden folders.",
    "sandbox_hide": "What no job in a sandbox can read, besides the home folder and the SQLite file.",
    "sandbox_network": "What a job in the strict sandbox can reach. Default: everything.",
    "artifacts_url": "Where artifacts are stored. Default: a folder in the home folder, for one machine.",
    "artifacts_most": "How many artifacts one attempt may leave.",
    "artifacts_bytes": "The maximum total size of the artifacts of one attempt.",
    "supervisor_lifetime": "When a supervisor without work expires; renewed while there is work.",
    "supervisor_stale": "The age of its heartbeat from which a supervisor is shown as stale.",
    "supervisor_stopped": "The age of its heartbeat from which a supervisor is shown as stopped.",
    "retention_runs": "The age from which finished runs are deleted with all their data, except costs.",
    "retention_workers": "The age from which rows of stopped workers are deleted.",
    "retention_costs": "The age from which cost records are deleted. `0s`: they are kept, even without their tasks.",
    "retention_every": "How often workers check for data that is old enough to be deleted.",
    "retention_archive": "Where workers write each run to a file before they delete it. Default: no archive.",
    "log_level": "The minimum level of worker log messages.",
    "log_format": "Readable lines, or one JSON document per line.",
    "debug": "Show the traceback of an error.",
    "runtime_dir": "Where the socket of the embedded Redis is created if its path in the home folder is too long.",
    "watchdog_lives": "Set by a worker that restarts itself, for the new process.",
    "ready_fd": "Set by a parent process that waits until its child is ready.",
}


def pages() -> dict[str, str]:
    """Return the content of every generated file by name; hand-written parts of a page are kept."""
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    return {
        "cli.md": _cli(),
        "api.md": _api(),
        "settings.md": _settings(),
        "errors.md": _errors(),
        "plan.schema.json": json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n",
        "concepts.md": _between(concepts, "moves", _moves()),
        "plan.md": _plan_fields(),
    }


def _plan_fields() -> str:
    text = (DOCS / "plan.md").read_text(encoding="utf-8")
    jobs = "\n\n".join(f"Fields of `{kind}` jobs:\n\n{_fields(job.table)}" for kind, job in JOBS.items())
    for name, content in (("a plan", _fields(PLAN)), ("a task", _fields(TASK)), ("jobs", jobs)):
        text = _between(text, f"fields of {name}", content)
    return text


def _fields(table: Table) -> str:
    rows = [(field.name, field.meaning + ("; required" if field.required else "")) for field in table]
    return "\n".join(["| key | meaning |", "|---|---|", *(f"| `{name}` | {meaning} |" for name, meaning in rows)])


def main() -> int:
    """Write all pages and print their names."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
    return 0


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: written by python -m docs.generate -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise LookupError(f"The page has no marked part {name}: {begin} … {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def _moves() -> str:
    order = list(TaskState)
    rows = ["| what happens | from | to |", "|---|---|---|"]
    arrows: dict[tuple[str, str], list[str]] = {}
    for move, (sources, target) in MOVES.items():
        ordered = [state for state in order if state in sources]
        rows.append(f"| {move} | {', '.join(ordered)} | {target} |")
        for state in ordered:
            arrows.setdefault((state, target), []).append(move)
    diagram = ["```mermaid", "stateDiagram-v2", "    [*] --> blocked: submit", "    [*] --> queued: submit"]
    diagram += [f"    {start} --> {target}: {', '.join(names)}" for (start, target), names in arrows.items()]
    diagram += ["    completed --> [*]", "```"]
    return "\n".join([*rows, "", *diagram])


def _cli() -> str:
    parts = [_WRITTEN, "# Command line", ""]
    for path, command in _commands(typer.main.get_command(app), "coord"):
        context = command.make_context(
            path, [], resilient_parsing=True, terminal_width=_WIDTH, max_content_width=_WIDTH
        )
        parts += [f"## {path}", "", "```text", context.get_help().rstrip(), "```", ""]
    return "\n".join(parts)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from _commands(below, f"{path} {name}")


def _settings() -> str:
    rows = [
        _WRITTEN,
        "# Settings",
        "",
        "Each process reads its settings from the environment once, when it starts. `coord doctor` shows the effective",
        "values and their sources.",
        "",
        "| variable | default | must be | meaning |",
        "|---|---|---|---|",
    ]
    specs = settings._SPECS  # noqa: SLF001 - the only place with names, shapes and defaults
    if set(specs) != set(_MEANINGS):
        raise LookupError(f"Settings and their meanings do not match: {set(specs) ^ set(_MEANINGS)}")
    for name, spec in specs.items():
        default = spec.default
        shown = "" if default in (None, "") else f"`{settings._write_value(default)}`"  # noqa: SLF001
        shape = spec.metadata["shape"].replace("|", r"\|")
        rows.append(f"| `{settings._VARIABLES[name]}` | {shown} | {shape} | {_MEANINGS[name]} |")  # noqa: SLF001
    return "\n".join(rows) + "\n"


def _errors() -> str:
    rows = [
        _WRITTEN,
        "# Errors",
        "",
        "Every error has a code for programs, the exit code of a command that ends with it, and the HTTP status of a",
        "response. An error without values of its own has those of the error it is a kind of.",
        "",
        "| error | kind of | code | exit code | HTTP status | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for error in _error_classes(CoordinationError):
        base = "" if error is CoordinationError else error.__bases__[0].__name__
        meaning = (error.__doc__ or "").partition("\n")[0].replace("``", "`")
        rows.append(
            f"| {error.__name__} | {base} | `{error.code}` | {error.exit_code} | {error.http_status} | {meaning} |"
        )
    return "\n".join(rows) + "\n"


def _error_classes(base: type[CoordinationError]) -> Iterator[type[CoordinationError]]:
    yield base
    for error in sorted(base.__subclasses__(), key=lambda error: error.__name__):
        if error.__module__ == CoordinationError.__module__:
            yield from _error_classes(error)


def _api() -> str:
    parts = [_WRITTEN, "# Python API", "", "Everything here is imported from `coordination`.", ""]
    for name in coordination.__all__:
        home = getattr(coordination, name).__module__
        source = Path(import_module(home).__file__ or "").read_text(encoding="utf-8")
        parts += _definition(name, source)
    parts += [
        "# Inside a job",
        "",
        "Imported from `coordination.job`, which needs only the standard library.",
        "",
    ]
    source = Path(import_module("coordination.job").__file__ or "").read_text(encoding="utf-8")
    for name in ("TryLater", "context", "record_usage"):
        parts += _definition(name, source)
    return "\n".join(parts).rstrip() + "\n"


def _definition(name: str, source: str) -> list[str]:
    tree = ast.parse(source)
    lines = source.splitlines()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class(node, lines)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [f"## {name}", "", *_function(node), *_doc(node)]
    raise LookupError(f"{name} is not defined in the module that coordination imports it from")


def _class(node: ast.ClassDef, lines: list[str]) -> list[str]:
    parts = [f"## {node.name}", "", *_doc(node)]
    job = any(isinstance(base, ast.Name) and base.id == "Job" for base in node.bases)  # all but its fields is ours
    fields = [
        _field(item, lines)
        for item in node.body
        if isinstance(item, ast.AnnAssign) or (isinstance(item, ast.Assign) and not job)
    ]
    shown = [field for field in fields if field and not field.startswith("_")]
    if shown:
        parts += ["```python", *shown, "```", ""]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and not job:
            parts += [f"### {node.name}.{item.name}", "", *_function(item), *_doc(item)]
    return parts


def _field(item: ast.AnnAssign | ast.Assign, lines: list[str]) -> str:
    written = "\n".join(lines[item.lineno - 1 : item.end_lineno])
    return re.sub(r"  # noqa.*", "", textwrap.dedent(written))


def _function(node: ast.FunctionDef) -> list[str]:
    if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list):
        line = f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
    else:
        line = f"{node.name}({ast.unparse(node.args)})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    return ["```python", line, "```", ""]


def _doc(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    found = ast.get_docstring(node)
    return [*found.splitlines(), ""] if found else []


if __name__ == "__main__":
    sys.exit(main())
