"""Tasks, their attempts and runs: read-only reports."""
