"""Predicted durations and costs of tasks and plans: operations across nouns, one transaction each."""
