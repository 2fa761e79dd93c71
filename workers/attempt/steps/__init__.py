"""The steps of an attempt, one module each. ``workers.attempt.step_list`` has them in their order."""
