"""Tasks, their attempts and runs: rules within a transaction."""
