"""Tables of tasks, attempts and runs."""
