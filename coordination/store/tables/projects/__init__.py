"""Projects and workspaces: tables."""
