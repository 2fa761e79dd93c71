"""``coord``: the commands put together, and the one place where a refusal becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from coordination.base import gc_tuning
from coordination.base.errors import INTERNAL, INTERRUPTED, OUTPUT_CLOSED, Ambiguous, CoordinationError
from coordination.base.host import speak_utf8
from coordination.cli import (
    accounts,
    agents,
    artifacts,
    beads,
    budgets,
    costs,
    doctor,
    hints,
    logs,
    mcp,
    prices,
    projects,
    questions,
    retention,
    runs,
    schema,
    sessions,
    simulate,
    single_tasks,
    stack,
    status,
    stopping,
    task,
    tasks,
    work,
    workspaces,
)
from coordination.cli.options import shared
from coordination.cli.suggestions import Commands, OutputClosedError, chosen
from coordination.cli.terminal import cleaned, leave_unread

app = typer.Typer(
    name="coord",
    cls=Commands,
    help="Teams of AI agents as a production job system.",
    no_args_is_help=True,
    # Rich help costs as much to import as everything else that --help needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"coord {version('coordination')}")
        raise typer.Exit


def _enter(folder: Path | None) -> None:
    """Work as if the program had been started in *folder*; what the environment names stays where it was."""
    from coordination.base.errors import Refused

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
    folder: Annotated[
        Path | None, typer.Option("-C", metavar="DIR", help="Work as if started in this folder (its project is meant).")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    shared.debug = debug
    _enter(folder)
    _warn_of_strangers()


def _warn_of_strangers() -> None:
    """A mistyped variable would otherwise be a setting that silently does nothing."""
    from coordination.settings import unknown_variables

    for name, meant in unknown_variables().items():
        hint = f"; did you mean {meant}?" if meant else "; it is not used"
        print(f"coord: there is no setting {name}{hint}", file=sys.stderr)


_ALL = (
    *(
        work,
        simulate,
        stack,
        stopping,
        status,
        runs,
        tasks,
        single_tasks,
        task,
        logs,
        artifacts,
        questions,
        agents,
        accounts,
        projects,
        sessions,
        costs,
        prices,
        workspaces,
        budgets,
    ),
    *(beads, schema, retention, doctor, mcp),
)
for commands in _ALL:
    commands.add_to(app)
for group in app.registered_groups:
    if group.typer_instance is not None:
        group.typer_instance.info.cls = Commands


def _words_after_coord() -> Iterator[str]:
    """The names of all commands and groups."""
    for command in app.registered_commands:
        if command.name:
            yield command.name
    for group in app.registered_groups:
        if group.name:
            yield group.name


_FIRST_WORDS = tuple(_words_after_coord())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. *argv*: the arguments after the program's name.

    Without *argv* the arguments and the whole process are the program's own.
    """
    if argv is None:
        speak_utf8()
        gc_tuning.settle()
        hints.begin(_FIRST_WORDS)
    try:
        with cleaned():
            code = _run(argv)
            sys.stdout.flush()  # what is in the buffers, before it is too late to say that nobody reads it
            sys.stderr.flush()
    except (OutputClosedError, BrokenPipeError):
        leave_unread()
        return OUTPUT_CLOSED
    return code


def _run(argv: Sequence[str] | None) -> int:
    shared.debug = False
    try:
        app(argv, prog_name="coord")
    except SystemExit as end:  # how typer ends a command, also a completed one
        return _exit_code(end)
    except CoordinationError as error:
        return _refused(error, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("coord: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OutputClosedError, BrokenPipeError):
        raise
    except Exception as error:
        if shared.debug:
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


def _refused(error: CoordinationError, typed: Sequence[str]) -> int:
    if shared.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, Ambiguous):
        error.commands = (*error.commands, *chosen(typed, error.choices))
    said = "\n  ".join(error.lines())
    print(f"coord: {said}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
