"""``coord mcp``: a server of the Model Context Protocol on stdin and stdout, for agents."""

from __future__ import annotations

import contextlib
import os

import typer

from coordination.cli.options import connected
from coordination.errors import Refused
from coordination.extras import install_command

_NAMES_A_STORE = ("COORD_DATABASE_URL", "COORD_HOME")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("mcp")(mcp)


def mcp() -> None:
    """Serve tools to an agent over stdin and stdout (MCP).

    Inside a job it reports: progress, ask, discovered, done, fail, context. Elsewhere, and in a job whose environment
    names a store, it looks: status, runs, tasks, task, explain, questions.
    """
    try:
        from coordination.mcp_server import reading, reporting
        from coordination.mcp_server.server import serve
    except ImportError as error:
        raise Refused(
            f"There is no MCP server here: {error.name or error} is not installed",
            hint=f"Run: {install_command('mcp')}",
        ) from None
    in_a_job = "COORD_TOKEN" in os.environ
    reports = reporting.TOOLS if in_a_job else ()
    if in_a_job and not any(name in os.environ for name in _NAMES_A_STORE):
        serve(reports, ())
        return
    with contextlib.ExitStack() as stack:
        serve(reports, reading.tools(stack.enter_context(connected())))
