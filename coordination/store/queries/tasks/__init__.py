"""Tasks, their attempts and runs: statements."""
