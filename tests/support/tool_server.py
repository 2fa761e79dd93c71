"""An MCP server for chats' tools, over stdio: real, with the protocol's own library. Run it as a program.

``add`` adds, ``sh`` runs a shell command and returns its output, ``fail`` fails, ``show`` returns a variable.
"""

from __future__ import annotations

import os
import subprocess
import sys

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("stand-in")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def sh(command: str) -> str:
    """Run a shell command."""
    done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.decode(errors="replace")


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("it is broken")


@server.tool()
def show(name: str) -> str:
    """The value of a variable."""
    return os.environ.get(name, "")


@server.tool(name="odd.name/with signs")
def odd() -> str:
    """Has a name that providers do not take."""
    return "odd"


if __name__ == "__main__":
    sys.stderr.write("tools are ready\n")
    sys.stderr.flush()
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
