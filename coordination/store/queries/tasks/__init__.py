"""Statements on tasks, attempts and runs."""
