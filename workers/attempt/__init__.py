"""What surrounds the run of one attempt."""
