"""The kinds of jobs, one module each, found by the registry."""
