"""Entry point of ``coord``: the MCP server inside a job starts without importing the whole command line."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the program's arguments and return its exit code."""
    if sys.argv[1:] == ["mcp"] and "COORD_TOKEN" in os.environ:
        from coordination.cli.jobs.mcp_in_a_job import serve

        return serve()
    from coordination.cli.main import main as run

    return run()
