"""Attempts of tasks: one ordered list of steps around a runner."""
