"""What work is expected to take and cost: pure records and rules."""
