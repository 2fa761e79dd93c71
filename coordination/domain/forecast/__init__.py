"""Predicted durations and costs of tasks and plans: pure records and rules."""
