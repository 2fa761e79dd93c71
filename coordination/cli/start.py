"""Where ``coord`` starts: what is needed at once, inside a job, does not wait for the whole command line."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the program's arguments and return its exit code."""
    if sys.argv[1:] == ["mcp"] and "COORD_TOKEN" in os.environ:
        from coordination.cli.mcp_in_a_job import serve

        return serve()
    from coordination.cli.main import main as run

    return run()
