"""Read-only joins that answer one question each. Nothing here writes."""
