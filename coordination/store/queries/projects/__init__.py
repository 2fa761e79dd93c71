"""Projects and workspaces: statements."""
