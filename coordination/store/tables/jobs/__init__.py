"""Artifacts, output and merges of jobs: tables."""
