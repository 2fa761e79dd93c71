"""Writes the reference pages from the code: ``python -m docs.generate``. A test holds the files against it."""

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
from coordination.cli.main import app
from coordination.domain.tasks.tasks import MOVES, TaskState
from coordination.formats.plan.schema import plan_schema

DOCS = Path(__file__).resolve().parent
_WRITTEN = "<!-- Written by python -m docs.generate; do not edit. -->"
_WIDTH = 100

_MEANINGS = {
    "home": "Where the embedded stack keeps its database, its socket and its logs.",
    "database_url": "The database. Not set: a SQLite file in the home folder.",
    "redis_url": "The Redis that carries the doorbells. Not set: the embedded stack starts one.",
    "workspace": "The workspace that everything belongs to; workspaces in one database do not see each other.",
    "workspaces": "Whose jobs a worker runs; default: those of `COORD_WORKSPACE`.",
    "lease_ttl": "How long a worker's claim on a task holds without a heartbeat.",
    "lease_heartbeat": "How often a worker renews its claims.",
    "sweep": "How often workers look for lost attempts and for work that nobody rang for.",
    "tick": "How often a project's supervisor is due.",
    "shutdown_grace": "How long a worker that was told to stop lets its jobs run before it hands them back.",
    "cancel_grace": "How long a job may take to end after SIGTERM, before SIGKILL.",
    "deferral_limit": "How long a job may ask for later, and nothing else, before a person must let it go on.",
    "watchdog": "How long a worker with free slots may hear nothing while work waits before it starts anew. 0: off.",
    "slots": "Jobs at once in one worker process.",
    "window": "Doorbells out per project at once. Not set: about two per slot of the living workers.",
    "worktrees": "Where the git worktrees of running tasks are made. Not set: `worktrees` in the home folder.",
    "worktrees_kept": "How long the worktree of a failed attempt is kept, unless its plan says otherwise. `0s`: not.",
    "warm_kept": "How long what a `setup` command made is kept after its last use, for the worktrees that follow.",
    "ports": "The ports that attempts on this machine may be lent.",
    "output_limit": "How much of a job's output is kept; the rest is cut, with a notice.",
    "job_memory": "The most memory that a job's processes may hold together. Not set: any amount.",
    "job_cpu": "The most processor time that a job's processes may use together. Not set: any amount.",
    "job_files": "How many files each process of a job may have open. Not set: as many as the worker itself.",
    "job_output": "How much a job may print before it is ended; `COORD_OUTPUT_LIMIT` is kept. Not set: any amount.",
    "sandbox": "Confine the processes of jobs, as far as the kernel can; strict: in namespaces of their own, or not at "
    "all. See [safety](safety.md).",
    "require_sandbox": "The same, and a worker whose kernel cannot confine jobs does not begin.",
    "sandbox_write": "What a job in a sandbox may change besides its folder. Not set: nothing.",
    "sandbox_read": "What a job in a sandbox may read besides: in the strict one, and below what is hidden.",
    "sandbox_hide": "What no job in a sandbox reads, besides the home folder and the SQLite file.",
    "sandbox_network": "What a job in the strict sandbox may reach. Not set: all.",
    "artifacts_url": "Where files that tasks leave are kept. Not set: a folder in the home folder, of one machine.",
    "artifacts_most": "How many files one attempt may leave.",
    "artifacts_bytes": "How large the files of one attempt may be in all.",
    "supervisor_lifetime": "When a supervisor without work expires; renewed while there is work.",
    "supervisor_stale": "From this age of its heartbeat, a supervisor is shown as stale.",
    "supervisor_stopped": "From this age of its heartbeat, a supervisor is shown as stopped.",
    "retention_runs": "From this age on, finished runs are deleted with all that belongs to them, but for costs.",
    "retention_workers": "From this age on, the rows of workers that have stopped are deleted.",
    "retention_costs": "From this age on, cost records are deleted. `0s`: the ledger is kept, also when its tasks go.",
    "retention_every": "How often workers look for what is old enough to be deleted.",
    "retention_archive": "Where workers write a run before they delete it, one file each. Not set: it is only deleted.",
    "log_level": "What workers log.",
    "log_format": "Lines for people, or one JSON document per line.",
    "debug": "Show the traceback of an error.",
    "runtime_dir": "Where the socket of the embedded Redis goes when its path under the home folder would be too long.",
    "watchdog_lives": "Set by a worker that starts itself anew, for its next life.",
    "ready_fd": "Set by a parent process that wants to be told when its child is ready.",
}


def pages() -> dict[str, str]:
    """Every generated file by name, as it should be; pages with a written frame keep it."""
    concepts = (DOCS / "concepts.md").read_text(encoding="utf-8")
    return {
        "cli.md": _cli(),
        "api.md": _api(),
        "settings.md": _settings(),
        "plan.schema.json": json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n",
        "concepts.md": _between(concepts, "moves", _moves()),
    }


def main() -> int:
    """Write them."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
    return 0


def _between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: written by python -m docs.generate -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise LookupError(f"There is no place for {name}: {begin} … {end}")
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
        "All settings are read from the environment, once, when a process starts. `coord doctor` shows the values that",
        "hold, and where each came from.",
        "",
        "| variable | default | must be | meaning |",
        "|---|---|---|---|",
    ]
    specs = settings._SPECS  # noqa: SLF001 - the one place where names, shapes and defaults stand together
    if set(specs) != set(_MEANINGS):
        raise LookupError(f"Settings without a meaning here, or the other way round: {set(specs) ^ set(_MEANINGS)}")
    for name, spec in specs.items():
        default = spec.default
        shown = "" if default in (None, "") else f"`{settings._spelt(default)}`"  # noqa: SLF001
        shape = spec.metadata["shape"].replace("|", r"\|")
        rows.append(f"| `{settings._VARIABLES[name]}` | {shown} | {shape} | {_MEANINGS[name]} |")  # noqa: SLF001
    return "\n".join(rows) + "\n"


def _api() -> str:
    parts = [_WRITTEN, "# Python API", "", "Everything here is imported from `coordination`.", ""]
    for name in coordination.__all__:
        home = coordination._HOMES[name]  # noqa: SLF001
        source = Path(import_module(home).__file__ or "").read_text(encoding="utf-8")
        parts += _definition(name, source)
    parts += [
        "# Inside a job",
        "",
        "Imported from `coordination.job`, which needs nothing but the standard library.",
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
            return _class(node, lines) + _inherited(node, tree)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [f"## {name}", "", *_function(node), *_doc(node)]
    raise LookupError(f"{name} is not defined where coordination looks for it")


def _inherited(node: ast.ClassDef, tree: ast.Module) -> list[str]:
    """What a class has from bases that its module imports from ours."""
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    parts = []
    for item in tree.body:
        if isinstance(item, ast.ImportFrom) and (item.module or "").startswith("coordination."):
            for name in sorted(bases & {alias.name for alias in item.names}):
                source = Path(import_module(item.module or "").__file__ or "").read_text(encoding="utf-8")
                base = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name)
                for method in base.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        parts += [f"### {node.name}.{method.name}", "", *_function(method), *_doc(method)]
    return parts


def _class(node: ast.ClassDef, lines: list[str]) -> list[str]:
    parts = [f"## {node.name}", "", *_doc(node)]
    fields = [_field(item, lines) for item in node.body if isinstance(item, ast.AnnAssign | ast.Assign)]
    shown = [field for field in fields if field and not field.startswith("_")]
    if shown:
        parts += ["```python", *shown, "```", ""]
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
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
