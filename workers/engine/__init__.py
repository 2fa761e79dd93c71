"""Runs claimed tasks: claims, batches, and what a commit releases."""
