"""Projects and workspaces: read-only reports."""
