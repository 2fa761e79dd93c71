"""Runners of jobs, one module per job kind, and what they share. They wait for the job and never use the store."""
