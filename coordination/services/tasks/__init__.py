"""Services about tasks and runs, within the caller's transaction."""
