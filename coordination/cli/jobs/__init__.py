"""Commands for use inside a job: coord task, and the MCP server."""
