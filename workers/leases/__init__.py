"""In-flight attempts: leases, heartbeats, usage and output until they are stored."""
