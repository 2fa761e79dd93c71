"""Read-only reports on tasks, attempts and runs."""
