"""Tasks, their attempts and runs: tables."""
