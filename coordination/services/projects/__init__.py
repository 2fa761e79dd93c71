"""Projects and workspaces: rules within a transaction."""
