"""Claims and runs tasks: executor, batches, commits."""
