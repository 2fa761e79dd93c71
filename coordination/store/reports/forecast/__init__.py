"""Predicted durations and costs of tasks and plans: read-only reports."""
