"""``coord mcp``: a server of the Model Context Protocol on stdin and stdout, for agents."""

from __future__ import annotations

import os

import typer

from coordination.base.errors import Refused
from coordination.base.extras import install_command
from coordination.cli.jobs import mcp_in_a_job
from coordination.cli.options import open_connection


def mcp() -> None:
    """Serve MCP tools to an agent over stdin and stdout.

    Tools inside a job: progress, ask, escalate, discovered, delegate, done, fail, context. Tools elsewhere, and in a
    job whose environment names a store: status, runs, tasks, task, explain, questions.
    """
    if "COORD_TOKEN" in os.environ:
        raise typer.Exit(mcp_in_a_job.serve())
    try:
        from coordination.mcp_server import reading
        from coordination.mcp_server.server import serve
    except ImportError as error:
        raise Refused(
            f"The MCP server cannot start: {error.name or error} is not installed",
            hint=f"Run: {install_command('mcp')}",
        ) from None
    with open_connection() as co:
        serve((), reading.tools(lambda: co))
