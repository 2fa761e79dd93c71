"""``coord``: registers all commands, and turns every error into one sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer
from typer import Option

from coordination.base import gc_tuning
from coordination.base.errors import INTERNAL, INTERRUPTED, OUTPUT_CLOSED, Ambiguous, CoordinationError, Refused
from coordination.base.host import ensure_utf8
from coordination.cli import hints
from coordination.cli.agents import accounts, agents
from coordination.cli.fleet import doctor, retention, status
from coordination.cli.forecast import simulate
from coordination.cli.issues import beads
from coordination.cli.jobs import mcp, task
from coordination.cli.money import budgets, costs, prices
from coordination.cli.plans import check, run
from coordination.cli.projects import projects, sessions, stopping, workspaces
from coordination.cli.stack import stack
from coordination.cli.suggestions import Commands, OutputClosedError, commands_for_choices
from coordination.cli.tasks import create, logs, questions, runs, task_list, tasks
from coordination.cli.terminal import clean_streams, discard_output
from coordination.settings import unknown_variables

app = typer.Typer(
    name="coord",
    cls=Commands,
    help="A job system for coding agents and other long-running work on your repositories.",
    no_args_is_help=True,
    # Rich help costs as much to import as everything else that --help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_options = SimpleNamespace(debug=False)  # those before the command


def _show_version(requested: bool) -> None:
    if requested:
        print(f"coord {installed_version('coordination')}")
        raise typer.Exit


def _enter(folder: Path | None) -> None:
    """Change into *folder*; a relative COORD_HOME keeps its meaning."""
    if folder is None:
        return
    if home := os.environ.get("COORD_HOME"):
        os.environ["COORD_HOME"] = str(Path(home).absolute())
    try:
        os.chdir(folder)
    except OSError as error:
        raise Refused(f"{folder} cannot be entered: {(error.strerror or str(error)).lower()}") from error


@app.callback()
def _global(
    folder: Annotated[Path | None, Option("-C", metavar="DIR", help="Run as if started in this folder.")] = None,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    _options.debug = debug
    _enter(folder)
    _warn_of_unknown_variables()


def _warn_of_unknown_variables() -> None:
    """Warn of COORD_ variables that are not settings: a mistyped one would be silently ignored."""
    for name, meant in unknown_variables().items():
        hint = f"; did you mean {meant}?" if meant else "; it is ignored"
        print(f"coord: {name} is not a setting{hint}", file=sys.stderr)


_COMMANDS: tuple[Callable[..., None], ...] = (
    *(run.run, run.submit, run.resume, simulate.simulate, stack.up, stack.down, stack.worker, stack.beat),
    *(stack.migrate, stopping.stop, stopping.start, status.status, tasks.explain, questions.questions),
    *(workspaces.rekey, beads.ready, check.check, retention.retain, doctor.doctor, mcp.mcp),
)
_GROUPS: Mapping[str, tuple[str, Sequence[Callable[..., None]]]] = {
    "runs": ("Manage runs: submitted plans.", (runs.list_, runs.show, runs.cancel, runs.retry, runs.events)),
    "tasks": (
        "Manage tasks: the jobs of runs.",
        (
            *(task_list.list_, tasks.show, tasks.events, tasks.cancel, tasks.retry, tasks.priority, tasks.force),
            *(tasks.output, questions.prompt, tasks.shell, questions.answer, create.create, create.assign),
            *(logs.logs, tasks.artifacts),
        ),
    ),
    "task": (
        "Inside a job: report progress, ask, add tasks, fail.",
        (task.progress, task.ask, task.escalate, task.discovered, task.delegate, task.done, task.fail, task.context),
    ),
    "agents": (
        "Manage agents.",
        (
            *(agents.list_, agents.show, agents.create, agents.change, agents.rename, agents.clone),
            *(agents.delete, agents.export, agents.import_),
        ),
    ),
    "accounts": (
        "Manage accounts: named keys and log-ins of this machine.",
        (accounts.list_, accounts.show, accounts.set_, accounts.unset),
    ),
    "projects": (
        "Manage projects.",
        (
            *(projects.list_, projects.show, projects.create, projects.change, projects.pause, projects.resume),
            *(projects.complete, projects.archive, projects.alias, projects.limit, projects.gates),
        ),
    ),
    "sessions": ("Show sessions, which group costs over runs.", (sessions.list_, sessions.show)),
    "costs": (
        "Show costs: every model call, exactly.",
        (
            *(costs.list_, costs.summary, costs.forecast, costs.check),
            *(costs.import_, costs.export, costs.reprice),
        ),
    ),
    "prices": ("Manage prices of models.", (prices.list_, prices.show, prices.set_, prices.delete)),
    "workspace": ("Manage the workspace.", (costs.timezone,)),
    "budgets": (
        "Manage budgets: caps on spending.",
        (budgets.list_, budgets.show, budgets.set_, budgets.raise_, budgets.remove, budgets.check),
    ),
    "import": ("Import data of other programs.", (beads.import_beads,)),
    "export": ("Export data for other programs.", (beads.export_beads,)),
    "schema": ("Print schemas of files, for editors.", (check.plan,)),
}
_OF_CELERY = {"allow_extra_args": True, "ignore_unknown_options": True}
for command in _COMMANDS:
    passed_on = _OF_CELERY if command in (stack.worker, stack.beat) else None
    app.command(command.__name__, context_settings=passed_on)(command)
for name, (help_, functions) in _GROUPS.items():
    group = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help=help_)
    for function in functions:  # list_ becomes list, and import_beads in the group import becomes beads
        group.command(function.__name__.removeprefix(f"{name}_").strip("_"))(function)
    app.add_typer(group, name=name)
_NAMES = [*(command.name for command in app.registered_commands), *(group.name for group in app.registered_groups)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. *argv*: the arguments (default: those of the process).

    Without *argv* the process runs nothing else, so its streams and garbage collector are set up for it.
    """
    if argv is None:
        ensure_utf8()
        gc_tuning.freeze_loaded_objects()
        hints.enable(filter(None, _NAMES))
    try:
        with clean_streams():
            code = _run(argv)
            sys.stdout.flush()  # a closed pipe raises here, where it is handled
            sys.stderr.flush()
    except (OutputClosedError, BrokenPipeError):
        discard_output()
        return OUTPUT_CLOSED
    return code


def _run(argv: Sequence[str] | None) -> int:
    _options.debug = False
    try:
        app(argv, prog_name="coord")
    except SystemExit as end:  # how typer ends a command, also a completed one
        return _exit_code(end)
    except CoordinationError as error:
        return _print_error(error, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("coord: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OutputClosedError, BrokenPipeError):
        raise
    except Exception as error:
        if _options.debug:
            raise
        print(
            f"coord: unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]} "
            "(this is a bug; --debug before the command shows where)",
            file=sys.stderr,
        )
        return INTERNAL
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _print_error(error: CoordinationError, typed: Sequence[str]) -> int:
    if _options.debug:
        traceback.print_exception(error)
    if isinstance(error, Ambiguous):
        error.commands = (*error.commands, *commands_for_choices(typed, error.choices))
    print("coord: " + "\n  ".join(error.lines()), file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
