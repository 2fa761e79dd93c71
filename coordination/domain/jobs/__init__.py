"""What a job is and what it leaves: pure records and rules."""
