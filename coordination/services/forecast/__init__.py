"""Predicted durations and costs of tasks and plans: rules within a transaction."""
