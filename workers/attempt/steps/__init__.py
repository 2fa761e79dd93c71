"""Steps around the run of one attempt, one concern a file."""
