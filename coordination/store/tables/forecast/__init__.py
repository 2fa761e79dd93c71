"""Predicted durations and costs of tasks and plans: tables."""
