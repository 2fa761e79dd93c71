"""What work is expected to take and cost: read-only reports."""
