"""Tasks, their attempts and runs: pure records and rules."""
