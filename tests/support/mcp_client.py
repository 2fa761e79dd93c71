"""A client of our MCP server, with the protocol's own library: starts it and calls tools. Run it as a program.

Its arguments are calls, ``tool {json}``; it prints the names of the tools, then one line of JSON per call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


async def main(calls: list[str]) -> None:
    """Execute the calls one after the other."""
    server = StdioServerParameters(command=sys.executable, args=["-m", "coordination.cli", "mcp"], env=dict(os.environ))
    async with Client(stdio_client(server)) as client:
        _say([tool.name for tool in (await client.list_tools()).tools])
        for call in calls:
            name, _, arguments = call.partition(" ")
            result = await client.call_tool(name, json.loads(arguments or "{}"))
            text = "".join(getattr(part, "text", "") for part in result.content)
            _say([name, bool(result.is_error), text])


def _say(what: object) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
