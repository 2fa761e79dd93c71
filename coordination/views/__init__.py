"""JSON forms of the nouns, one function for each: used by --json, by the MCP server and by whatever else shows them.

A view returns a dictionary of records' values; ``domain.json_values.plain`` makes JSON types of them.
"""
