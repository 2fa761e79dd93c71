"""JSON forms, one function for each noun, for --json and the MCP server.

A view returns a dictionary of a record's values; ``base.json_values.plain`` converts them to JSON types.
"""
