"""The MCP server over stdin and stdout, with the official library: for agents outside of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import mcp_types as types
from anyio import to_thread
from mcp.server import NotificationOptions, Server
from mcp.server.stdio import stdio_server

from coordination import __version__
from coordination.mcp_server.session import NAME, instructions
from coordination.mcp_server.tools import Tool, call


def make_server(reporting: Sequence[Tool], reading: Sequence[Tool]) -> Server:
    """Return a server with these tools."""
    tools = (*reporting, *reading)

    async def list_tools(_context: object, _request: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool.model_validate(tool.declaration()) for tool in tools])

    async def call_tool(_context: object, request: types.CallToolRequestParams) -> types.CallToolResult:
        text, failed = await to_thread.run_sync(partial(call, tools, request.name, request.arguments))
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=failed)

    return Server(
        NAME,
        version=__version__,
        instructions=instructions(reporting, reading),
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve(reporting: Sequence[Tool], reading: Sequence[Tool]) -> None:
    """Serve until stdin ends."""
    anyio.run(_serve, make_server(reporting, reading))


async def _serve(server: Server) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(NotificationOptions()))
