"""Artifacts, output and merges of jobs: statements."""
