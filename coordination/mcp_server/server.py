"""The server over stdin and stdout: which tools it has here, and how a refusal reaches who called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from coordination.errors import CoordinationError

NAME = "coord"
MOST_TOOLS = 12
MOST_BYTES = 12 * 1024
"""Of all their schemas together: each tool costs every agent that sees it a part of its context."""

_IN_A_JOB = "Report on the task that you work on; a job that ends well is done."
_OUTSIDE = "Look at plans of agents at work."

Tool = Callable[..., str]


def make_server(reporting: Sequence[Tool], reading: Sequence[Tool]) -> MCPServer:
    """A server with these tools."""
    told = " ".join([*([_IN_A_JOB] if reporting else []), *([_OUTSIDE] if reading else [])])
    server: MCPServer = MCPServer(NAME, instructions=told, log_level="WARNING")
    for tool in (*reporting, *reading):
        server.add_tool(_explained(tool), description=inspect.getdoc(tool), structured_output=False)
    return server


def serve(reporting: Sequence[Tool], reading: Sequence[Tool]) -> None:
    """Answer until stdin ends."""
    make_server(reporting, reading).run("stdio")


def _explained(tool: Tool) -> Tool:
    @functools.wraps(tool)
    def called(*given: object, **named: object) -> str:
        try:
            return tool(*given, **named)
        except CoordinationError as error:
            raise ToolError(error.sentence()) from None

    return called
