"""Projects and workspaces: operations across nouns, one transaction each."""
