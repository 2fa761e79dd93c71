"""What work is expected to take and cost: rules within a transaction."""
