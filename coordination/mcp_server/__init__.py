"""MCP server: a small set of tools for agents; every call is safe to repeat."""
