"""Projects and workspaces: pure records and rules."""
