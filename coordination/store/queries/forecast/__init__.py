"""What work is expected to take and cost: statements."""
