"""The steps of an attempt, one module each; workers.attempt.pipeline lists them in their order."""
