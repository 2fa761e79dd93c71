"""What a job is and what it leaves: tables."""
